"""What data sets of image files have in common: splits, and samples under a framing."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from torch import Tensor

from hardneg_plugin.data.framing import Framing
from hardneg_plugin.data.studies import SPLITS, FindingsReader, Sample, SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge.findings import READERS


class FileSplit(ABC):
    """The studies of one split (the `Studies` contract): columns in memory, views read on access."""

    ids: Sequence[str]
    """Study identifiers."""
    reports: Sequence[str]
    """The reports as written."""
    patients: Sequence[str | None]
    """Patient identifiers; None where unknown."""
    labels: Sequence[str | None]
    """Canonical texts of label sets; None where there are no labels."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing

    @abstractmethod
    def read_views(self, index: int, shorter_side: int) -> list[Tensor]:
        """The views of a study.

        Args:
            index: of the study.
            shorter_side: pixels needed; a view has fewer only where its file does.

        Returns:
            `(1, H, W)` uint8 each.

        Raises:
            UserError: an image cannot be read.
        """

    @property
    @abstractmethod
    def view_counts(self) -> Sequence[int]:
        """Number of views of each study."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index, its images whole; with `(index, seed)`, each view under a crop that the seed draws.

        Raises:
            UserError: an image cannot be read.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        study = self.ids[index]
        views = self.read_views(index, self._framing.crop if seed is None else self._framing.resize)
        images, boxes = self._framing.frame(study, views, seed)
        sample = Sample(
            id=study,
            images=images,
            report=self.reports[index],
            patient=self.patients[index],
            labels=self.labels[index],
        )
        return sample if boxes is None else {**sample, "boxes": boxes}


AnySplit = TypeVar("AnySplit", bound=FileSplit)


class FileSource(Generic[AnySplit]):
    """A `StudySource` of `FileSplit`s, its boxes checked against its studies.

    Args:
        splits: one per name.
        framing: what the splits were made with.
        findings: the language in which `read_findings` reads reports, a name in `READERS`; None: it reads none.

    Raises:
        UserError: the boxes are of other studies, or of another number of views; or the language is unknown.
    """

    def __init__(self, splits: Mapping[SplitName, AnySplit], framing: Framing, findings: str | None = None) -> None:
        if findings is not None and findings not in READERS:
            raise UserError(f"findings: expected one of {', '.join(READERS)} or null, but got {findings!r}.")
        self.splits = splits
        self._findings = findings
        if framing.boxes is not None:
            framing.boxes.check(
                [study for split in splits.values() for study in split.ids],
                [count for split in splits.values() for count in split.view_counts],
            )

    def split(self, name: SplitName) -> AnySplit:
        """The studies of one split; the same object at every call."""
        if name not in self.splits:
            raise ValueError(f"Expected a split of {SPLITS}, but got {name!r}.")
        return self.splits[name]

    @property
    def read_findings(self) -> FindingsReader | None:
        """Reads the findings that a report states; None if `findings` is."""
        return None if self._findings is None else READERS[self._findings]
