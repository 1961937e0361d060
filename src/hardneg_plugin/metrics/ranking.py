"""The area under the ROC curve as a function of sums over studies, so that studies can be drawn anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.metrics.tally import Floats, Tally

NUMBERS = 2**26
"""Held for all findings of a split, 512 MiB; where that takes fewer bins than studies, neighbours in rank count as equal."""
FEWEST = 64
"""Bins there are at least."""


def auroc_tally(name: str, scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[float]]) -> Tally:
    """The mean over findings of the area under the ROC curve.

    A finding counts where studies with it and without it were drawn; where none counts, the area is 0.5. Equal scores count half.
    Exact where each study has a bin, which is so for 400 studies of 14 findings and up to 1,500.

    Args:
        name: of the score.
        scores: by finding, of N studies; NaN where the study does not count.
        labels: by finding, 1 or 0.
    """
    studies = len(next(iter(scores.values()), ()))
    bins = max(1, min(studies, max(FEWEST, NUMBERS // max(1, 2 * len(scores) * studies))))
    columns = [
        _histogram(np.asarray(scores[finding], float), np.asarray(labels[finding], float), bins) for finding in scores
    ]
    widths = tuple(column.shape[1] // 2 for column in columns)
    return Tally(np.concatenate(columns, axis=1), _MeanArea(name, widths))


@dataclass(frozen=True)
class _MeanArea:
    name: str
    widths: tuple[int, ...]

    def __call__(self, sums: Floats) -> dict[str, Floats]:
        areas = [_area(part) for part in np.split(sums, np.cumsum([2 * width for width in self.widths])[:-1], axis=-1)]
        stacked = np.stack(areas, axis=-1)
        count = (~np.isnan(stacked)).sum(-1)
        return {self.name: np.where(count, np.nansum(stacked, -1) / np.maximum(count, 1), 0.5)}


def _histogram(scores: Floats, labels: Floats, bins: int) -> NDArray[np.float64]:
    """`(N, 2 * bins)`: in which bin of ascending ranks each study is, without the finding or, in the second half, with it.

    Bins are of ranks, so that what two models have of a study can be exchanged.
    """
    counts = ~np.isnan(scores)
    ranked = np.sort(scores[counts])
    # how many are below: equal scores share a bin
    place = np.searchsorted(ranked, scores[counts], side="left") * bins // max(1, len(ranked))
    rows = np.zeros((len(scores), 2 * bins))
    rows[np.flatnonzero(counts), place + bins * (labels[counts] > 0)] = 1
    return rows


def _area(sums: Floats) -> Floats:
    without, having = np.split(sums, 2, axis=-1)
    below = np.cumsum(without, axis=-1) - without / 2
    pairs = without.sum(-1) * having.sum(-1)
    area: Floats = np.where(pairs > 0, (having * below).sum(-1) / np.maximum(pairs, 1e-12), np.nan)
    return area
