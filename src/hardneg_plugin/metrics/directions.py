"""Of every score, whether higher or lower is better: whatever compares, chooses, writes or shows scores asks here."""

import re
from collections.abc import Iterable
from typing import Literal

Direction = Literal["higher", "lower", "neither"]

DIRECTIONS: dict[str, Direction] = {
    r"BLEU-\d|METEOR|ROUGE-L|CIDEr": "higher",
    r"findings(_attributes)?_(precision|recall|F1)": "higher",
    r"findings_F1_(common|medium|rare)|findings_macro_F1": "higher",
    r"informativeness": "higher",
    r"(image_)?specificity|specificity_findings": "higher",
    r"((pair|peers|likelihood|r2i)_)*R@\d+": "higher",
    r"((pair|peers|likelihood|r2i)_)*rank": "lower",
    r"unique_share|distinct-\d": "higher",
    r"(\w+_)?loss": "lower",
    r"length|studies": "neither",
    r"(pair_)?zero_shot_AUROC|probe_[\d.]+%_AUROC": "higher",
    r"pointing_game|IoU|Dice|vqa(_\w+)?": "higher",
    r"false_alarms": "lower",
    r"[^/]+_F1_[\w-]+": "higher",  # of labels and of RadGraph, by the name of the labeller or the model
    r"RaTEScore_(long|short)": "higher",
    r"GREEN|CRIMSON": "higher",
    r"SRR-BERT_(F1|precision|recall)": "higher",
    r"RadCliQ-v1": "lower",
}
"""By regular expression of the whole name."""


def direction_of(name: str) -> Direction | None:
    """Whether a score is better the higher or the lower it is, or neither, as the length of reports; None if it is not known.

    Args:
        name: of the score; a split, a section or "cut" before it, as in "val/report_loss", changes nothing.

    >>> direction_of("CIDEr"), direction_of("val/report_loss"), direction_of("length"), direction_of("mine")
    ('higher', 'lower', 'neither', None)
    """
    short = name.rpartition("/")[2]
    return next((direction for pattern, direction in DIRECTIONS.items() if re.fullmatch(pattern, short)), None)


def directions_of(names: Iterable[str]) -> dict[str, Direction]:
    """The directions of those scores of which it is known, in order, each once."""
    found = {name: direction_of(name) for name in names}
    return {name: direction for name, direction in found.items() if direction is not None}


def with_direction(name: str) -> str:
    """The name of a score as the heading of a column, where nothing says that lower is better, unless it does.

    >>> with_direction("CIDEr"), with_direction("report_loss")
    ('CIDEr', 'report_loss (lower is better)')
    """
    return f"{name} (lower is better)" if direction_of(name) == "lower" else name
