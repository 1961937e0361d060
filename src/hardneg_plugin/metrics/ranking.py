"""The area under the ROC curve as a function of sums over studies, so that studies can be drawn anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.metrics.tally import Floats, Tally

BINS = 1024
"""Scores that are told apart: of more studies, neighbours in rank count as equal."""


def auroc_tally(name: str, scores: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[float]]) -> Tally:
    """The mean over findings of the area under the ROC curve.

    A finding counts where studies with it and without it were drawn; where none counts, the area is 0.5. Equal scores count half.
    Exact up to `BINS` studies.

    Args:
        name: of the score.
        scores: by finding, of N studies; NaN where the study does not count.
        labels: by finding, 1 or 0.
    """
    columns = [_histogram(np.asarray(scores[finding], float), np.asarray(labels[finding], float)) for finding in scores]
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


def _histogram(scores: Floats, labels: Floats) -> NDArray[np.float64]:
    """`(N, 2 * bins)`: in which bin of ascending scores each study is, without the finding or, in the second half, with it."""
    counts = ~np.isnan(scores)
    levels = np.unique(scores[counts])
    if len(levels) > BINS:
        levels = levels[np.linspace(0, len(levels) - 1, BINS).round().astype(int)]
    bins = max(len(levels), 1)
    place = np.clip(np.searchsorted(levels, scores[counts], side="right") - 1, 0, None)
    rows = np.zeros((len(scores), 2 * bins))
    rows[np.flatnonzero(counts), place + bins * (labels[counts] > 0)] = 1
    return rows


def _area(sums: Floats) -> Floats:
    without, having = np.split(sums, 2, axis=-1)
    below = np.cumsum(without, axis=-1) - without / 2
    pairs = without.sum(-1) * having.sum(-1)
    area: Floats = np.where(pairs > 0, (having * below).sum(-1) / np.maximum(pairs, 1e-12), np.nan)
    return area
