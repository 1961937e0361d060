"""The scores of a split: of all studies together, of each alone, and under any weights of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardneg_plugin.metrics.directions import directions_of
from hardneg_plugin.metrics.significance import intervals
from hardneg_plugin.metrics.statistics import Statistic, means


@dataclass
class ScoreCard:
    """Scores of N studies.

    >>> card = ScoreCard.of_means({"ROUGE-L": [0.2, 0.4], "specificity": [1.0, float("nan")]})
    >>> card.add(ScoreCard({"unique_share": 0.5}))
    >>> {name: round(value, 2) for name, value in card.values.items()}
    {'ROUGE-L': 0.3, 'specificity': 1.0, 'unique_share': 0.5}
    >>> card.of_study(1)
    {'ROUGE-L': 0.4}
    """

    values: dict[str, float] = field(default_factory=dict)
    """Of all studies together."""
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By name what each study scores alone, N values; NaN where it does not count."""
    statistics: list[Statistic] = field(default_factory=list)
    """From which `values` follow; "unique_share", "distinct-n" and the "cut/" scores have none."""

    @classmethod
    def of_means(cls, columns: Mapping[str, Sequence[float]]) -> "ScoreCard":
        """Scores that are the means of what the studies score."""
        statistic = means(columns)
        return cls(statistic.values(), columns, [statistic])

    def add(self, other: "ScoreCard") -> None:
        """Take up more scores of the same studies."""
        self.values |= other.values
        self.columns = {**self.columns, **other.columns}
        self.statistics += other.statistics

    def of_study(self, row: int) -> dict[str, float]:
        """What one study scores alone."""
        return known_values(self.columns, row)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval, over studies, of every score that has a statistic."""
        return intervals(self.statistics)


def known_values(columns: Mapping[str, Sequence[float]], row: int) -> dict[str, float]:
    """One row of columns by name, without NaN.

    Args:
        columns: N values each.
        row: in [0, N).
    """
    return {name: float(column[row]) for name, column in columns.items() if not math.isnan(column[row])}


def scores_and_intervals(cards: Mapping[str, ScoreCard]) -> dict[str, Any]:
    """What metrics.json holds of the scores of splits.

    By split their values, under "intervals" [low, high] of each, and under "directions" whether "higher", "lower" or "neither" is
    better.
    """
    ends = {split: card.intervals() for split, card in cards.items()}
    listed = {split: {name: [low, high] for name, (low, high) in by_name.items()} for split, by_name in ends.items()}
    directions = directions_of(name for card in cards.values() for name in card.values)
    return {**{split: card.values for split, card in cards.items()}, "intervals": listed, "directions": directions}
