"""Scores of a downstream task from what each study adds to them: what evaluation writes, and what runs are compared by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from hardneg_plugin.metrics.ranking import auroc_tally
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.tally import Floats, Sums


class TaskRow(TypedDict):
    """One study. Groups are findings, or kinds of something; a score is the mean over its groups."""

    id: str
    means: dict[str, dict[str, list[float]]]
    """By score and group, the sum and the count of what the study adds."""
    rankings: dict[str, dict[str, list[float]]]
    """By score (an AUROC) and group, the study's score and its label, 1 or 0."""


def task_card(rows: Sequence[TaskRow]) -> ScoreCard:
    """The scores of N studies; an AUROC only where some finding has studies with it and without it."""
    card = ScoreCard(each=[{} for _ in rows])
    for name in sorted({name for row in rows for name in row["means"]}):
        groups = sorted({group for row in rows for group in row["means"].get(name, ())})
        sums = np.array([[row["means"].get(name, {}).get(group, [0.0, 0.0]) for group in groups] for row in rows])
        card.tallies.append(Sums(sums.reshape(len(rows), -1), _MeanOfMeans(name)))
        for scores, of_study in zip(card.each, sums.sum(1), strict=True):
            if of_study[1]:
                scores[name] = float(of_study[0] / of_study[1])
    for name in sorted({name for row in rows for name in row["rankings"]}):
        groups = sorted({group for row in rows for group in row["rankings"].get(name, ())})
        columns = {
            group: [row["rankings"].get(name, {}).get(group, [float("nan"), 0.0]) for row in rows] for group in groups
        }
        if any(len({label for score, label in pairs if not math.isnan(score)}) == 2 for pairs in columns.values()):
            scores_of, labels_of = ({group: [pair[i] for pair in columns[group]] for group in groups} for i in (0, 1))
            card.tallies.append(auroc_tally(name, scores_of, labels_of))
    for tally in card.tallies:
        card.values |= tally.values()
    return card


@dataclass(frozen=True)
class _MeanOfMeans:
    name: str

    def __call__(self, sums: Floats) -> dict[str, Floats]:
        pairs = sums.reshape(*sums.shape[:-1], -1, 2)
        totals, counts = pairs[..., 0], pairs[..., 1]
        is_there = counts > 0
        means = np.where(is_there, totals / np.where(is_there, counts, 1), 0.0)
        return {self.name: means.sum(-1) / np.maximum(is_there.sum(-1), 1)}
