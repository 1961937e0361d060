"""Scores as statistics of N studies that are known under any weights of these, which is all that a bootstrap needs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = TypeVar("Kind", bound="Statistic")


class Statistic(ABC):
    """One or several scores of N studies."""

    @property
    @abstractmethod
    def studies(self) -> int:
        """N."""

    @abstractmethod
    def under(self, weights: Floats) -> dict[str, Floats]:
        """The scores `(W,)` by name under W weights of the studies `(W, N)`: how often each is drawn, 0 included."""

    def values(self) -> dict[str, float]:
        """The scores of all studies, each counted once."""
        return {name: float(value) for name, (value,) in self.under(np.ones((1, self.studies))).items()}


@dataclass(frozen=True)
class SumStatistic(Statistic):
    """Scores that follow from S sums over N studies: corpus BLEU, micro F1, every mean. Weighted, they cost one product.

    >>> rows = np.array([[1.0, 2.0], [3.0, 4.0]])  # by study what it has right, and of how many
    >>> accuracy = SumStatistic(rows, lambda sums: {"accuracy": sums[..., 0] / sums[..., 1]})
    >>> accuracy.under(np.array([[1.0, 1.0], [0.0, 2.0]]))["accuracy"].tolist()
    [0.6666666666666666, 0.75]
    """

    rows: Floats
    """`(N, S)`, finite: what each study adds to the sums."""
    scores: Callable[[Floats], dict[str, Floats]]
    """From sums `(..., S)` to scores `(...)` by name; a study may be drawn several times, or none at all."""

    @property
    def studies(self) -> int:
        """See `Statistic`."""
        return len(self.rows)

    def under(self, weights: Floats) -> dict[str, Floats]:
        """See `Statistic`."""
        return self.scores(weights @ self.rows)

    def of_some(self, rows: Sequence[int], studies: int, prefix: str) -> "SumStatistic":
        """The same scores as a statistic of more studies, of which only some count.

        Args:
            rows: the places of these N studies among all.
            studies: how many there are.
            prefix: before the names of the scores.
        """
        of_all = np.zeros((studies, self.rows.shape[1]))
        of_all[list(rows)] = self.rows
        return SumStatistic(of_all, partial(_prefixed, prefix, self.scores))


@dataclass(frozen=True)
class MeanOfRuns(Statistic):
    """The means of the scores that several runs have on the same studies.

    >>> MeanOfRuns((means({"R@1": [0.0, 1.0]}), means({"R@1": [1.0, 1.0]}))).values()
    {'R@1': 0.75}
    """

    of: tuple[Statistic, ...]

    @property
    def studies(self) -> int:
        """See `Statistic`."""
        return self.of[0].studies

    def under(self, weights: Floats) -> dict[str, Floats]:
        """See `Statistic`."""
        each = [statistic.under(weights) for statistic in self.of]
        return {name: np.mean([scores[name] for scores in each], axis=0) for name in each[0]}


def means_of_runs(runs: Sequence[Sequence[Statistic]]) -> dict[tuple[str, ...], MeanOfRuns]:
    """The means over R >= 1 runs of the statistics that all of them have, each under the names of its scores.

    Args:
        runs: the statistics of each run, all over the same studies.
    """
    by_names = [{tuple(statistic.values()): statistic for statistic in run} for run in runs]
    return {
        names: MeanOfRuns(tuple(run[names] for run in by_names))
        for names in by_names[0]
        if all(names in run for run in by_names)
    }


def means(columns: Mapping[str, Sequence[float]]) -> SumStatistic:
    """The mean of each column over N studies; a study with NaN is left out, and the mean of none is 0.

    >>> means({"ROUGE-L": [0.25, 0.75], "specificity": [1.0, float("nan")]}).values()
    {'ROUGE-L': 0.5, 'specificity': 1.0}
    """
    values = np.array(list(columns.values()), dtype=np.float64).reshape(len(columns), -1).T
    is_counted = ~np.isnan(values)
    rows = np.concatenate([is_counted, np.where(is_counted, values, 0)], axis=1)
    return SumStatistic(rows, partial(_means, tuple(columns)))


def _prefixed(prefix: str, scores: Callable[[Floats], dict[str, Floats]], sums: Floats) -> dict[str, Floats]:
    return {f"{prefix}{name}": value for name, value in scores(sums).items()}


def _means(names: Sequence[str], sums: Floats) -> dict[str, Floats]:
    counts, totals = np.split(sums, 2, axis=-1)
    return dict(zip(names, np.moveaxis(totals / np.maximum(counts, 1), -1, 0), strict=True))
