"""What a data set gives: samples, one per study, and the batch that a model receives."""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


class _StudySample(TypedDict):
    """The fields of every sample."""

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


class Sample(_StudySample, total=False):
    """One study as a data set returns it."""

    emphasis: NDArray[np.float32]
    """Of each token of the report, `[0, ids..., 0]`, in [0, 1]; only in training, with a `TokenEmphasis`."""
    negatives: "list[Sample]"
    """Its K paired hard negatives, the same K for every study; only in training, with `negatives=paired`."""
    edited: "Sequence[str | None]"
    """N copies of the report, the n-th with up to n changed findings; None: there is none. Only in training, with `edits`."""
    boxes: Tensor
    """`(V, R, 4)` float32: the same R regions of every view as (top, left, bottom, right) in shares of its height and width, NaN
    where a region is missing. All studies of a data set have this, or none."""


class StudyColumns(Protocol):
    """What is known of a split's studies without their images: a value per study in each column."""

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


class Studies(StudyColumns, Protocol):
    """One split. Its columns are available without loading images."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index; with `(index, seed)`, under the augmentation drawn by the seed."""
        ...


FindingsReader = Callable[[str], frozenset[tuple[str, Hashable]]]
"""From a text to its findings, each `(name, attributes)`."""


class StudySource(Protocol):
    """A data set: its splits, and a reader of findings where one is known."""

    def split(self, name: SplitName) -> Studies:
        """One split; the same object at every call."""
        ...

    @property
    def read_findings(self) -> FindingsReader | None:
        """Reads the findings that a text states; None where no reader is known."""
        ...


class _StudyBatch(TypedDict):
    """The fields of every batch."""

    ids: list[str]
    images: Tensor
    """`(B, V, 1, H, W)` uint8, zero where a view is missing."""
    view_mask: Tensor
    """`(B, V)` bool, True where there is a view."""
    tokens: Tensor
    """`(B, T)` int64, `[0, ids..., 0, padding 0...]`, cut to the maximum length."""
    token_mask: Tensor
    """`(B, T)` bool, True over `[0, ids..., 0]`."""
    references: list[str]
    """The full reports in the tokenizer's cleaned form; scores compare with these."""
    cut_references: list[str]
    """The same, cut to the maximum length."""
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
    edited_tokens: Tensor
    """`(B, N, T')` int64: the n-th copies of the reports with up to n changed findings, as `tokens`. Only in training, with
    `edits`."""
    edited_mask: Tensor
    """`(B, N, T')` bool, as `token_mask`; False throughout where there is no copy that differs from what `tokens` keep."""
    boxes: Tensor
    """`(B, V, R, 4)` float32: as the samples', NaN where a view is missing; where the data set has boxes."""
    emphasis: Tensor
    """`(B, T)` float32 in [0, 1], of each token. Only in training, with a `TokenEmphasis`."""
    negatives: "Batch"
    """The K paired hard negatives of each study, B * K rows; row `i * K + j` is the j-th of study i. Only in training, with
    `negatives=paired`."""
