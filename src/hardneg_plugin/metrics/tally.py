"""Scores that are functions of sums over studies, which is all that resampling studies takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """What each of N studies adds to S sums, and the scores that follow from these.

    Corpus BLEU is such a score, micro F1, and every mean: under any weights of the studies it costs one product.
    """

    rows: Floats
    """`(N, S)`, finite."""
    scores: Callable[[Floats], dict[str, Floats]]
    """From sums `(..., S)` to scores `(...)` by name; sums of studies drawn several times, or of none, included."""

    def values(self) -> dict[str, float]:
        """The scores of all studies, each counted once."""
        return {name: float(value) for name, value in self.scores(self.rows.sum(axis=0)).items()}


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


def means(columns: Mapping[str, Sequence[float]]) -> Tally:
    """The mean of each column over N studies; NaN is a study that the column does not count, and the mean of none is 0.

    >>> means({"ROUGE-L": [0.25, 0.75], "specificity": [1.0, float("nan")]}).values()
    {'ROUGE-L': 0.5, 'specificity': 1.0}
    """
    values = np.array(list(columns.values()), dtype=np.float64).reshape(len(columns), -1).T
    is_counted = ~np.isnan(values)
    rows = np.concatenate([is_counted, np.where(is_counted, values, 0)], axis=1)
    return Tally(rows, _Means(tuple(columns)))


@dataclass(frozen=True)
class _Means:
    names: tuple[str, ...]

    def __call__(self, sums: Floats) -> dict[str, Floats]:
        counts, totals = np.split(sums, 2, axis=-1)
        return dict(zip(self.names, np.moveaxis(totals / np.maximum(counts, 1), -1, 0), strict=True))
