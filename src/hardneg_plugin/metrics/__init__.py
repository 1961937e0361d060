"""The scores of reports; those that stand alone are metrics of torchmetrics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardneg_plugin.metrics.chexbert import CheXbert
    from hardneg_plugin.metrics.label_files import LabelFiles
    from hardneg_plugin.metrics.radeval import RadEvalScore
    from hardneg_plugin.metrics.radgraph import RadGraph
    from hardneg_plugin.metrics.ratescore import RaTEScore
    from hardneg_plugin.metrics.retrieval_metric import RetrievalMetric
    from hardneg_plugin.metrics.text_metrics import (
        CaptionMetric,
        ClinicalTextMetric,
        DiversityMetric,
        FindingsMetric,
        InformativenessMetric,
        SpecificityMetric,
    )

_PLACES = {
    "CheXbert": "chexbert",
    "LabelFiles": "label_files",
    "RaTEScore": "ratescore",
    "RadEvalScore": "radeval",
    "RadGraph": "radgraph",
    "RetrievalMetric": "retrieval_metric",
    **dict.fromkeys(
        (
            "CaptionMetric",
            "ClinicalTextMetric",
            "DiversityMetric",
            "FindingsMetric",
            "InformativenessMetric",
            "SpecificityMetric",
        ),
        "text_metrics",
    ),
}

__all__ = [
    "CaptionMetric",
    "CheXbert",
    "ClinicalTextMetric",
    "DiversityMetric",
    "FindingsMetric",
    "InformativenessMetric",
    "LabelFiles",
    "RaTEScore",
    "RadEvalScore",
    "RadGraph",
    "RetrievalMetric",
    "SpecificityMetric",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: commands read the names of scores before they import torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return value
