"""Scores that are known under any weights of the studies, which is all that drawing studies anew takes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = TypeVar("Kind", bound="Tally")


class Tally(ABC):
    """Scores of N studies."""

    @property
    @abstractmethod
    def studies(self) -> int:
        """N."""

    @abstractmethod
    def under(self, weights: Floats) -> dict[str, Floats]:
        """The scores `(W,)` by name under W weights of the studies `(W, N)`: how often each is drawn, 0 included."""

    @abstractmethod
    def joined(self: Kind, other: Kind) -> Kind:
        """The same scores of the 2 N studies of both."""

    def values(self) -> dict[str, float]:
        """The scores of all studies, each counted once."""
        return {name: float(value) for name, (value,) in self.under(np.ones((1, self.studies))).items()}


@dataclass(frozen=True)
class Sums(Tally):
    """What each of N studies adds to S sums, and the scores that follow from these.

    Corpus BLEU is such a score, micro F1, and every mean: under any weights of the studies it costs one product.
    """

    rows: Floats
    """`(N, S)`, finite."""
    scores: Callable[[Floats], dict[str, Floats]]
    """From sums `(..., S)` to scores `(...)` by name; sums of studies drawn several times, or of none, included."""

    @property
    def studies(self) -> int:
        """See `Tally`."""
        return len(self.rows)

    def under(self, weights: Floats) -> dict[str, Floats]:
        """See `Tally`."""
        return self.scores(weights @ self.rows)

    def joined(self, other: "Sums") -> "Sums":
        """See `Tally`."""
        return replace(self, rows=np.concatenate([self.rows, other.rows]))


@dataclass(frozen=True)
class Mean(Tally):
    """The means of the scores that several models have of the same studies."""

    of: tuple[Tally, ...]

    @property
    def studies(self) -> int:
        """See `Tally`."""
        return self.of[0].studies

    def under(self, weights: Floats) -> dict[str, Floats]:
        """See `Tally`."""
        each = [tally.under(weights) for tally in self.of]
        return {name: np.mean([scores[name] for scores in each], axis=0) for name in each[0]}

    def joined(self, other: "Mean") -> "Mean":
        """See `Tally`."""
        return replace(self, of=tuple(own.joined(their) for own, their in zip(self.of, other.of, strict=True)))


def means_of_runs(tallies: Sequence[Sequence[Tally]]) -> dict[tuple[str, ...], Mean]:
    """By the names of their scores, the means of what R >= 1 runs have of the same studies, where all of them have it."""
    by_names = [{tuple(tally.values()): tally for tally in own} for own in tallies]
    return {
        names: Mean(tuple(own[names] for own in by_names))
        for names in by_names[0]
        if all(names in own for own in by_names)
    }


@dataclass(frozen=True)
class Scored:
    """Scores of N studies."""

    values: dict[str, float]
    """Of all of them together."""
    columns: dict[str, Sequence[float]]
    """By name what each study scores for itself; NaN where it does not count."""
    tallies: list[Tally]
    """How `values` follow from sums over studies, as far as they do."""

    @classmethod
    def of_means(cls, columns: Mapping[str, Sequence[float]]) -> "Scored":
        """Scores that are the means of what the studies score."""
        tally = means(columns)
        return cls(tally.values(), dict(columns), [tally])


def means(columns: Mapping[str, Sequence[float]]) -> Sums:
    """The mean of each column over N studies; NaN is a study that the column does not count, and the mean of none is 0.

    >>> means({"ROUGE-L": [0.25, 0.75], "specificity": [1.0, float("nan")]}).values()
    {'ROUGE-L': 0.5, 'specificity': 1.0}
    """
    values = np.array(list(columns.values()), dtype=np.float64).reshape(len(columns), -1).T
    is_counted = ~np.isnan(values)
    rows = np.concatenate([is_counted, np.where(is_counted, values, 0)], axis=1)
    return Sums(rows, _Means(tuple(columns)))


@dataclass(frozen=True)
class _Means:
    names: tuple[str, ...]

    def __call__(self, sums: Floats) -> dict[str, Floats]:
        counts, totals = np.split(sums, 2, axis=-1)
        return dict(zip(self.names, np.moveaxis(totals / np.maximum(counts, 1), -1, 0), strict=True))
