"""Increasingly hard negatives for chest X-ray report generation, as a plug-in for any LightningModule."""

from hardneg_plugin.mixin import HardNegativeMixin
from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.wrap import plug_in

__all__ = ["HardNegativeMixin", "HardNegativeObjective", "PairEmbeddings", "plug_in"]
