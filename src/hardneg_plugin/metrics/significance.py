"""Intervals of scores, and differences between two models with their intervals and p-values, by resampling studies and seeds.

A percentile bootstrap for intervals (Efron 1979), and a paired one over studies and training seeds for differences (Koehn 2004).
The p-value of a difference comes from the same draws as its interval, so the two agree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.metrics.statistics import Floats, MeanOfRuns, Statistic, means_of_runs

RESAMPLES = 2000
_BLOCK = 2**22  # weights held at once, 32 MiB
_ROUNDING = 1e-12  # by which sums in another order may differ


@dataclass(frozen=True)
class Difference:
    """One score of two models over the same studies: means over training seeds, and their difference."""

    ours: float
    theirs: float
    difference: float
    """`ours - theirs`."""
    low: float
    """Lower end of the interval of the difference."""
    high: float
    """Upper end."""
    p_value: float
    """Twice the share of draws on the other side of zero, zero included; >= `smallest_p_value(resamples)`, <= 1."""


def intervals(
    statistics: Sequence[Statistic], *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The percentile bootstrap interval of every score, over studies drawn with replacement.

    Args:
        statistics: all over the same N studies.
        resamples: number of draws, >= 1.
        level: the share of draws within the interval, in (0, 1).
        seed: of the draws, which are the same for all scores.

    Raises:
        ValueError: a number is out of its range, or the statistics differ in their number of studies.

    >>> from hardneg_plugin.metrics.statistics import means
    >>> intervals([means({"specificity": [0.0, 1.0, 1.0, 1.0]})], resamples=500)
    {'specificity': (0.25, 1.0)}
    """
    studies = _check(statistics, resamples, level)
    drawn: dict[str, list[Floats]] = {}
    for weights, _ in _bootstrap(studies, resamples, seed):
        for statistic in statistics:
            for name, values in statistic.under(weights).items():
                drawn.setdefault(name, []).append(values)
    return {name: _within(np.concatenate(values), level) for name, values in drawn.items()}


def compare(
    ours: Sequence[Sequence[Statistic]],
    theirs: Sequence[Sequence[Statistic]],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> dict[str, Difference]:
    """For every score that both models have, the means over training seeds and their difference.

    Interval and p-value are those of one paired bootstrap over studies and training seeds, with the same draws for both models. A
    p-value below 1 - `level` has an interval off zero. Under one seed both are over studies alone.

    Args:
        ours: for each of R training seeds, the statistics of one model over the same N studies in the same order.
        theirs: those of the other model, for the same R seeds.
        resamples: number of draws, >= 1.
        level: that of the intervals, in (0, 1).

    Raises:
        ValueError: a number is out of its range, or the models differ in their numbers of seeds or studies.

    >>> from hardneg_plugin.metrics.statistics import means
    >>> ours, theirs = means({"specificity": [1.0] * 20}), means({"specificity": [0.0] * 20})
    >>> found = compare([[ours]], [[theirs]], resamples=500)["specificity"]
    >>> found.difference, found.low, found.p_value < 0.01
    (1.0, 1.0, True)
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"Expected the same number of seeds for both models, but got {len(ours)} and {len(theirs)}.")
    studies = _check([statistic for statistics in (*ours, *theirs) for statistic in statistics], resamples, level)
    found: dict[str, Difference] = {}
    our_means, their_means = means_of_runs(ours), means_of_runs(theirs)
    pairs = [(our_means[names], their_means[names]) for names in our_means if names in their_means]
    draws: list[list[dict[str, Floats]]] = []
    for weights, rng in _bootstrap(studies, resamples):  # for all statistics: drawing takes longer than their sums
        seeds = rng.integers(len(ours), size=(len(weights), len(ours)))
        draws.append([_resampled(pair, weights, seeds) for pair in pairs])
    for place, pair in enumerate(pairs):
        our_scores, their_scores = (mean.values() for mean in pair)
        for name in our_scores:
            difference = our_scores[name] - their_scores[name]
            drawn = np.concatenate([draw[place][name] for draw in draws])
            low, high = _within(drawn, level)
            found[name] = Difference(our_scores[name], their_scores[name], difference, low, high, _p_value(drawn))
    return found


def smallest_p_value(resamples: int) -> float:
    """The p-value of a difference that no draw contradicts: an upper bound.

    >>> smallest_p_value(1999)
    0.001
    """
    return 2 / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the given order: they control the family-wise error rate.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _resampled(pair: Sequence[MeanOfRuns], weights: Floats, seeds: NDArray[np.int64]) -> dict[str, Floats]:
    """Differences `(W,)` of two models for W draws of studies, `(W, N)`, and of R seeds, `(W, R)`."""
    ours, theirs = ([statistic.under(weights) for statistic in mean.of] for mean in pair)
    differences = {}
    for name in ours[0]:
        of_seeds = np.stack([one[name] - other[name] for one, other in zip(ours, theirs, strict=True)], axis=1)
        differences[name] = np.take_along_axis(of_seeds, seeds, axis=1).mean(axis=1)
    return differences


def _p_value(drawn: Floats) -> float:
    """Of differences `(W,)` in W draws, twice the share of those on the rarer side of zero, at most 1."""
    rarer = min(int((drawn <= _ROUNDING).sum()), int((drawn >= -_ROUNDING).sum()))
    return min(1.0, (1 + rarer) * smallest_p_value(len(drawn)))


def _check(statistics: Sequence[Statistic], resamples: int, level: float) -> int:
    """Check the arguments; returns the number of studies."""
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"Expected `resamples` >= 1 and `level` in (0, 1), but got {resamples} and {level}.")
    numbers = {statistic.studies for statistic in statistics}
    if len(numbers) > 1:
        raise ValueError(f"Expected statistics of the same studies, but got some of {sorted(numbers)} studies.")
    return numbers.pop() if numbers else 0


def _blocks(studies: int, resamples: int) -> Iterator[int]:
    size = max(1, _BLOCK // max(1, studies))
    yield from (min(size, resamples - start) for start in range(0, resamples, size))


def _bootstrap(studies: int, resamples: int, seed: int = 0) -> Iterator[tuple[Floats, np.random.Generator]]:
    """How often each study is drawn, `(W, N)`, and the generator that draws seeds to go with it."""
    rng, of_seeds = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    for size in _blocks(studies, resamples):
        yield rng.multinomial(studies, np.full(studies, 1 / max(1, studies)), size=size).astype(np.float64), of_seeds


def _within(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
