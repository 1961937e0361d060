"""What every reader of original files gives: a study after another, or why one is left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError

Section = Literal["findings", "impression", "both", "report"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class OriginalStudy:
    """One examination as its original files have it; texts as written, but for white space at their ends."""

    id: str
    """Unique within the data set."""
    images: tuple[Path, ...]
    """One file per view, at least one: PNG, JPEG or DICOM; known to exist and to be inside the data set."""
    findings: str = ""
    """Empty where the report has no such section; so is the next."""
    impression: str = ""
    report: str = ""
    """The whole report, where it comes undivided."""
    patient: str | None = None
    """Patient identifier; None where unknown."""
    labels: str | None = None
    """Canonical text of the label set (`label_text`); "" is the set without findings, None where there are no labels."""
    split: SplitName | None = None
    """The official split; None where there is none."""


@dataclass(frozen=True)
class DroppedEntry:
    """A study, or a view of one, that is left out."""

    id: str
    """Of the study."""
    reason: str
    """In a few words, the same for all that are left out for it: they are counted by it. Such as "no image"."""
    detail: str = ""
    """What there is to say of this one, such as the name of the file."""


OF_ONE_VIEW = frozenset({"image not found", "unknown projection", "unknown view position", "unreadable image"})
"""Reasons for which one view is left out, and not the study."""


class Originals(Protocol):
    """Original files, read one study at a time: hundreds of thousands must not be held at once."""

    def __len__(self) -> int:
        """How many studies there are at most, for the progress bar."""
        ...

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        """All studies, in an order that is the same every time.

        Raises:
            UserError: what is there cannot be read as this kind of data.
        """
        ...


def text_of(study: OriginalStudy, section: Section) -> str:
    """What a model is to write for a study; empty where the report does not have it.

    "both" are findings and impression with a space between them, or the one that there is.

    Raises:
        UserError: for another section.
    """
    if section not in SECTIONS:
        raise UserError(f"section: expected one of {', '.join(SECTIONS)}, but got {section!r}.")
    if section == "both":
        return " ".join(filter(None, (study.findings, study.impression)))
    text: str = getattr(study, section)
    return text


def label_text(names: Iterable[str]) -> str:
    """The canonical text of a set of labels, as `OriginalStudy.labels` has it."""
    return "|".join(sorted(set(names)))
