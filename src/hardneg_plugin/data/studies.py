"""What a data set gives: samples of one study each, and the batch a model receives."""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, Protocol, TypedDict

from torch import Tensor

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


class _Study(TypedDict):
    """What every sample has."""

    id: str
    """Unique within the data set."""
    images: Tensor
    """`(V, 1, H, W)` uint8: one grayscale image per view; V may differ between studies, H and W may not."""
    report: str
    """The full report as written; never empty."""
    patient: str | None
    """Patient identifier, or None where unknown."""
    labels: str | None
    """A canonical text of the study's label set ("" is the set without findings), or None where there are no labels."""


class Sample(_Study, total=False):
    """One study as a data set returns it."""

    negatives: "list[Sample]"
    """Its K mined hard negatives, as many for every study, where the training split has such."""
    boxes: Tensor
    """`(V, R, 4)` float32, the same R regions of every view as (top, left, bottom, right) in shares of its height and width; NaN:
    no such box. Where the data set has boxes, every study has this."""


class Studies(Protocol):
    """One split. All but the images is at hand without loading these."""

    @property
    def ids(self) -> Sequence[str]:
        """Study identifiers."""
        ...

    @property
    def reports(self) -> Sequence[str]:
        """The full reports as written."""
        ...

    @property
    def patients(self) -> Sequence[str | None]:
        """As the samples' `patient`."""
        ...

    @property
    def labels(self) -> Sequence[str | None]:
        """As the samples' `labels`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index; with `(index, seed)`, under the augmentation that this seed draws."""
        ...


FindingsReader = Callable[[str], frozenset[tuple[str, Hashable]]]
"""From a text to its findings, each `(name, attributes)`."""


class StudySource(Protocol):
    """A data set: its splits, and how its findings are read out of a text where that is known."""

    def split(self, name: SplitName) -> Studies:
        """One split; the same object on every call."""
        ...

    @property
    def read_findings(self) -> FindingsReader | None:
        """Reads findings out of a text; None where the data set has no such reader."""
        ...


class _StudyBatch(TypedDict):
    """What every batch has."""

    ids: list[str]
    images: Tensor
    """`(B, V, 1, H, W)` uint8, zero where a view is missing."""
    view_mask: Tensor
    """`(B, V)` bool, True where there is a view."""
    tokens: Tensor
    """`(B, T)` int64, `[0, words..., 0, padding 0...]`, cut to the maximum length."""
    token_mask: Tensor
    """`(B, T)` bool, True over `[0, words..., 0]`."""
    references: list[str]
    """The full reports in the tokenizer's cleaned form: what is scored against."""
    cut_references: list[str]
    """The same cut to the maximum length."""
    patients: list[str | None]
    """As the samples' `patient`."""
    labels: list[str | None]
    """As the samples' `labels`."""
    match_keys: Tensor
    """`(B, 4)` int64: keys of study, patient, text and label set; -1 where unknown. Equal keys in any column are a match."""


class Batch(_StudyBatch, total=False):
    """What a model receives; B studies, V views (padded), T tokens (padded)."""

    facts: Tensor
    """`(B, Q)` int64: 1 where a report states a prompt, 0 where it does not, -1 where it leaves it open."""
    boxes: Tensor
    """`(B, V, R, 4)` float32: as the samples', NaN where a view is missing; where the data set has such."""
    negatives: "Batch"
    """The K mined hard negatives of each study, B * K rows, of which row `i * K + j` is the j-th of study i. Only training
    batches have them, and only where they are asked for."""
