"""Increasingly hard negatives for chest X-ray report generation, as a plug-in for any LightningModule."""

from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.plugin.describe import describe
from hardneg_plugin.plugin.feature import Feature
from hardneg_plugin.plugin.host_state import host_state_dict
from hardneg_plugin.plugin.mixin import HardNegativeMixin
from hardneg_plugin.plugin.plug_in import plug_in

__all__ = [
    "Feature",
    "HardNegativeMixin",
    "HardNegativeObjective",
    "PairEmbeddings",
    "describe",
    "host_state_dict",
    "plug_in",
]
