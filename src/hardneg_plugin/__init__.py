"""Increasingly hard negatives for chest X-ray report generation, as a plug-in for any LightningModule."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Segment
    from hardneg_plugin.functional.likelihood import TokenLosses
    from hardneg_plugin.hf import HardNegativeTrainer, HardNegativeTrainerMixin
    from hardneg_plugin.models.report_generator import ReportGenerator
    from hardneg_plugin.objectives import (
        Alternating,
        Bank,
        GroundedKnowledgeObjective,
        HardNegativeObjective,
        InBatch,
        InfoNCE,
        Paired,
        PairEmbeddings,
        Queue,
        RelationEnhancedObjective,
        Triplet,
        Weights,
    )
    from hardneg_plugin.objectives.schedule import Constant, Cosine, Exponential, Linear
    from hardneg_plugin.plugin.describe import describe
    from hardneg_plugin.plugin.feature import Feature
    from hardneg_plugin.plugin.host_state import host_state_dict
    from hardneg_plugin.plugin.mixin import HardNegativeMixin
    from hardneg_plugin.plugin.plug_in import plug_in

    __version__: str

_PLACES = {
    **dict.fromkeys(("Arc", "Ascent", "Projection", "Segment"), "functional.hardening"),
    "TokenLosses": "functional.likelihood",
    **dict.fromkeys(("HardNegativeTrainer", "HardNegativeTrainerMixin"), "hf"),
    "ReportGenerator": "models.report_generator",
    **dict.fromkeys(
        (
            "Alternating",
            "Bank",
            "GroundedKnowledgeObjective",
            "HardNegativeObjective",
            "InBatch",
            "InfoNCE",
            "PairEmbeddings",
            "Paired",
            "Queue",
            "RelationEnhancedObjective",
            "Triplet",
            "Weights",
        ),
        "objectives",
    ),
    **dict.fromkeys(("Constant", "Cosine", "Exponential", "Linear"), "objectives.schedule"),
    "describe": "plugin.describe",
    "Feature": "plugin.feature",
    "host_state_dict": "plugin.host_state",
    "HardNegativeMixin": "plugin.mixin",
    "plug_in": "plugin.plug_in",
}

__all__ = [
    "Alternating",
    "Arc",
    "Ascent",
    "Bank",
    "Constant",
    "Cosine",
    "Exponential",
    "Feature",
    "GroundedKnowledgeObjective",
    "HardNegativeMixin",
    "HardNegativeObjective",
    "HardNegativeTrainer",
    "HardNegativeTrainerMixin",
    "InBatch",
    "InfoNCE",
    "Linear",
    "PairEmbeddings",
    "Paired",
    "Projection",
    "Queue",
    "RelationEnhancedObjective",
    "ReportGenerator",
    "Segment",
    "TokenLosses",
    "Triplet",
    "Weights",
    "__version__",
    "describe",
    "host_state_dict",
    "plug_in",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the commands read their arguments before they import torch."""
    from importlib import import_module, metadata

    if name == "__version__":
        value: Any = metadata.version("hardneg-plugin")
    elif name in _PLACES:
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
