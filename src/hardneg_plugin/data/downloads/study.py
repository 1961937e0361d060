"""What every reader of original files yields: studies, or why one is left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

from hardneg_plugin.data.report_sections import marked
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.data.texts import visible_text
from hardneg_plugin.errors import UserError

Section = Literal["findings", "impression", "both", "findings_impression", "report"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class OriginalStudy:
    """One examination as its original files have it; texts as written, without white space at their ends."""

    id: str
    """Unique within the data set."""
    images: tuple[Path, ...]
    """One existing file per view, inside the data set; at least one: PNG, JPEG or DICOM."""
    findings: str = ""
    """Empty where the report has no such section."""
    impression: str = ""
    """Empty where the report has no such section."""
    report: str = ""
    """The whole report, where it is not divided into sections."""
    patient: str | None = None
    """Patient identifier; None where unknown."""
    labels: str | None = None
    """Canonical text of the label set (`label_text`): "" without findings, None without labels."""
    split: SplitName | None = None
    """The official split; None where there is none."""


@dataclass(frozen=True)
class DroppedEntry:
    """A study, or a view of one, that is left out."""

    id: str
    """Of the study."""
    reason: str
    """A few words such as "no image"; entries are counted by it."""
    detail: str = ""
    """About this entry, such as the name of the file."""


OF_ONE_VIEW = frozenset({"image not found", "unknown projection", "unknown view position", "unreadable image"})
"""Reasons for leaving out one view instead of the study."""


class Originals(Protocol):
    """Original files, read one study at a time: hundreds of thousands do not fit in memory."""

    def __len__(self) -> int:
        """The most studies there can be, for the progress bar."""
        ...

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        """All studies, in the same order every time.

        Raises:
            UserError: the files cannot be read as this kind of data.
        """
        ...


def text_of(study: OriginalStudy, section: Section) -> str:
    """The text that a model learns to write for a study; empty where the report does not have it.

    Args:
        study: the study.
        section: "both" joins findings and impression with a space, or gives the only one; "findings_impression" puts a mark before
            each (`marked`).

    Raises:
        UserError: the section is unknown.
    """
    if section not in SECTIONS:
        raise UserError(f"section: expected one of {', '.join(SECTIONS)}, but got {section!r}.")
    if section == "both":
        return " ".join(filter(None, (study.findings, study.impression)))
    if section == "findings_impression":
        return marked(study.findings, study.impression)
    text: str = getattr(study, section)
    return text


def as_seen(study: OriginalStudy) -> OriginalStudy:
    """A study with its texts as a reader sees them (`visible_text`), without white space at their ends; its id stays as it is."""
    findings, impression, report = (
        visible_text(text).strip() for text in (study.findings, study.impression, study.report)
    )
    patient = None if study.patient is None else visible_text(study.patient).strip()
    labels = None if study.labels is None else label_text(map(str.strip, visible_text(study.labels).split("|")))
    return replace(study, findings=findings, impression=impression, report=report, patient=patient, labels=labels)


def label_text(names: Iterable[str]) -> str:
    """The canonical text of a set of labels, as in `OriginalStudy.labels`."""
    return "|".join(sorted(set(names)))
