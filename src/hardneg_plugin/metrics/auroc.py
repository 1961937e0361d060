"""The area under the ROC curve as a statistic, under any weights of the studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.metrics.statistics import Floats, Statistic

_BLOCK = 2**22  # pairs of a study with a finding and one without it, held at once, 32 MiB


def mean_auroc(name: str, scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[float]]) -> "MeanAUROC":
    """The mean over F findings of the area under the ROC curve.

    A finding counts if studies with it and without it were drawn; if none counts, the area is 0.5. Equal scores count half.

    Args:
        name: of the score.
        scores: by finding, those of N studies; NaN where the study does not count.
        labels: by finding, 1 or 0 for each study.

    >>> mean_auroc("AUROC", {"nodule": [0.1, 0.4, 0.35, 0.8]}, {"nodule": [0, 0, 1, 1]}).values()
    {'AUROC': 0.75}
    """
    ranks = np.stack([_ranks(np.asarray(scores[finding], float)) for finding in scores], axis=1)
    return MeanAUROC(name, ranks, np.stack([np.asarray(labels[finding]) > 0 for finding in scores], axis=1))


@dataclass(frozen=True)
class MeanAUROC(Statistic):
    """The mean area of F findings over N studies.

    The area of a finding is the share of pairs (i, j), of a study i with it and a study j without it, in which i ranks higher.
    Under weights w a pair counts w_i w_j times: one product with the matrix of pairs.
    """

    name: str
    ranks: Floats
    """`(N, F)` in [0, 1]; NaN where the study does not count. Ranks rather than scores, so that models can exchange studies."""
    has: NDArray[np.bool_]
    """`(N, F)` bool: whether the study has the finding."""

    @property
    def studies(self) -> int:
        """See `Statistic`."""
        return len(self.ranks)

    def under(self, weights: Floats) -> dict[str, Floats]:
        """See `Statistic`."""
        by_study = np.ascontiguousarray(weights.T)  # rows are gathered faster than columns
        areas = np.stack([_area(by_study, *columns) for columns in zip(self.ranks.T, self.has.T, strict=True)], axis=-1)
        count = (~np.isnan(areas)).sum(-1)
        return {self.name: np.where(count, np.nansum(areas, -1) / np.maximum(count, 1), 0.5)}


def _ranks(scores: Floats) -> Floats:
    """For each score, the share of lower ones among those that count, `(N,)`; equal scores have equal ranks."""
    counts = ~np.isnan(scores)
    ranks = np.full(len(scores), np.nan)
    ranks[counts] = np.searchsorted(np.sort(scores[counts]), scores[counts]) / max(1, counts.sum())
    return ranks


def _area(weights: Floats, ranks: Floats, has: NDArray[np.bool_]) -> Floats:
    """The area of one finding under weights `(N, W)`, `(W,)`; NaN where there is no pair."""
    counts = ~np.isnan(ranks)
    having, without = np.flatnonzero(counts & has), np.flatnonzero(counts & ~has)
    of_without = weights[without]
    higher = np.zeros(weights.shape[1])
    for some in np.array_split(having, 1 + having.size * without.size // _BLOCK):
        above, below = ranks[some, None], ranks[None, without]
        is_higher = (above > below) + 0.5 * (above == below)
        higher += ((is_higher @ of_without) * weights[some]).sum(0)
    pairs = of_without.sum(0) * weights[having].sum(0)
    return np.where(pairs > 0, higher / np.maximum(pairs, 1e-12), np.nan)
