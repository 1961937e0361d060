"""Scores of a downstream task from what each study adds to them: hardneg-tasks writes these rows, hardneg-compare reads them."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import numpy as np

from hardneg_plugin.metrics.auroc import mean_auroc
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic


class TaskRow(TypedDict):
    """One study. A score is the mean over its groups, which are findings or kinds of questions."""

    id: str
    means: dict[str, dict[str, list[float]]]
    """By score and group, the sum and the count that the study adds."""
    rankings: dict[str, dict[str, list[float]]]
    """By score (an AUROC) and group, the study's score and its label, 1 or 0."""


def task_card(rows: Sequence[TaskRow]) -> ScoreCard:
    """The scores of N studies; an AUROC only if some finding has studies with it and without it.

    >>> row = {"id": "a", "means": {"IoU": {"nodule": [0.5, 1.0], "effusion": [0.2, 1.0]}}, "rankings": {}}
    >>> task_card([row]).values
    {'IoU': 0.35}
    """
    card = ScoreCard()
    for name in sorted({name for row in rows for name in row["means"]}):
        groups = sorted({group for row in rows for group in row["means"].get(name, ())})
        sums = np.array([[row["means"].get(name, {}).get(group, [0.0, 0.0]) for group in groups] for row in rows])
        statistic = SumStatistic(sums.reshape(len(rows), -1), partial(_mean_of_means, name))
        columns = {name: [total / count if count else math.nan for total, count in sums.sum(1).tolist()]}
        card.add(ScoreCard(statistic.values(), columns, [statistic]))
    for name in sorted({name for row in rows for name in row["rankings"]}):
        groups = sorted({group for row in rows for group in row["rankings"].get(name, ())})
        pairs_of = {
            group: [row["rankings"].get(name, {}).get(group, [float("nan"), 0.0]) for row in rows] for group in groups
        }
        if any(len({label for score, label in pairs if not math.isnan(score)}) == 2 for pairs in pairs_of.values()):
            scores_of, labels_of = ({group: [pair[i] for pair in pairs_of[group]] for group in groups} for i in (0, 1))
            area = mean_auroc(name, scores_of, labels_of)
            card.add(ScoreCard(area.values(), statistics=[area]))
    return card


def _mean_of_means(name: str, sums: Floats) -> dict[str, Floats]:
    pairs = sums.reshape(*sums.shape[:-1], -1, 2)
    totals, counts = pairs[..., 0], pairs[..., 1]
    is_there = counts > 0
    means = np.where(is_there, totals / np.where(is_there, counts, 1), 0.0)
    return {name: means.sum(-1) / np.maximum(is_there.sum(-1), 1)}
