"""Which validation score chooses `best.ckpt` where the user names none: what a report says before how it is worded."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

AUTO = "auto"
"""The value of `monitor` that stands for `default_monitor`."""
FINDINGS = "val/findings_attributes_F1"
SPECIFICITY = "val/specificity"


def default_monitor(data: Mapping[str, Any] | DictConfig) -> str:
    """The score by which the checkpoint is chosen unless `monitor` names one.

    Findings with their attributes where findings can be read from the reports, else the specificity of words. Scores of wording
    prefer the normal report that suits every image, and so does the report loss.

    Args:
        data: the config of the data; where its `findings` are null, none can be read.

    >>> default_monitor({"findings": "english"}), default_monitor({"findings": None})
    ('val/findings_attributes_F1', 'val/specificity')
    """
    return FINDINGS if data.get("findings", AUTO) is not None else SPECIFICITY


def resolve_monitor(config: DictConfig) -> None:
    """Put the name of a score in place of `monitor: auto`.

    Args:
        config: of hardneg-train, composed; changed in place.
    """
    if config.monitor == AUTO:
        config.monitor = default_monitor(config.data)
