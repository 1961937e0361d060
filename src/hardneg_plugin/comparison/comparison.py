"""What a comparison found: the scores of every run, and how each variant differs from the baseline on the same studies."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import read_json
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.runs.folder import RunFolder

ALPHA = 0.05
"""A corrected p-value below is called a difference; intervals hold 1 - ALPHA."""
SPLITS = ("val", "test")


@dataclass(frozen=True)
class RunResult:
    """One finished run."""

    seed: int
    folder: str
    """Relative to that of the comparison."""
    overrides: list[str]
    """With which hardneg-train makes it again."""
    scores: dict[str, dict[str, float]]
    """By split."""
    curves: dict[str, list[tuple[int, float]]]
    """Of validation: (step, value)."""
    seconds: float | None
    """Of training; None for a run that was resumed, of which only the last part is known."""
    parameters: dict[str, int]
    versions: dict[str, str]


@dataclass(frozen=True)
class Compared:
    """A score of a variant against that of the baseline, means over seeds."""

    difference: float
    low: float
    high: float
    p_value: float
    corrected: float | None
    """By Holm, over all comparisons of the measures that count; None of other scores."""


@dataclass(frozen=True)
class SplitResult:
    """All variants on one split."""

    studies: int
    sha256: str
    """Of the studies' ids in their order, a line each."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    """By variant and score, of the mean over seeds: studies resampled, trainings as they are."""
    differences: dict[str, dict[str, Compared]]
    """By variant and score; not of the baseline."""


@dataclass(frozen=True)
class Comparison:
    """Everything that tables and plots show."""

    baseline: str
    seeds: list[int]
    measures: list[str]
    """The scores that count; the first chooses."""
    resamples: int
    variants: dict[str, list[RunResult]]
    """In the order of the seeds."""
    splits: dict[str, SplitResult]
    notes: list[str]
    """What a reader must know: variants and measures that are left out."""

    def scores(self, variant: str, split: str, name: str) -> list[float]:
        """A score under each seed; empty where a run does not have it."""
        found = [run.scores[split].get(name) for run in self.variants[variant]]
        return [value for value in found if value is not None] if None not in found else []

    @property
    def chosen(self) -> str:
        """The best variant on val, by the first of the measures; of equal ones the first."""
        return max(self.variants, key=lambda variant: float(np.mean(self.scores(variant, "val", self.measures[0]))))

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """What `to_json` gave, from a file.

        Raises:
            UserError: the file holds something else.
        """
        content = read_json(path, "comparison")
        try:
            variants = {
                name: [
                    RunResult(**{**run, "curves": {k: [(s, v) for s, v in c] for k, c in run["curves"].items()}})
                    for run in runs
                ]
                for name, runs in content["variants"].items()
            }
            splits = {
                name: SplitResult(
                    studies=split["studies"],
                    sha256=split["sha256"],
                    intervals={
                        variant: {score: (low, high) for score, (low, high) in by_score.items()}
                        for variant, by_score in split["intervals"].items()
                    },
                    differences={
                        variant: {score: Compared(**values) for score, values in by_score.items()}
                        for variant, by_score in split["differences"].items()
                    },
                )
                for name, split in content["splits"].items()
            }
            return cls(**{**content, "variants": variants, "splits": splits})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Expected the comparison.json of hardneg-compare, but {path} holds something else ({error!r})."
            ) from error


def result_of(
    run: RunFolder,
    comparison: Path,
    seed: int,
    overrides: list[str],
    cards: Mapping[str, ScoreCard],
    curves: dict[str, list[tuple[int, float]]],
) -> RunResult:
    """What is kept of a finished run.

    Raises:
        UserError: its metrics.json cannot be read.
    """
    metrics = read_json(run.metrics, "metrics")
    return RunResult(
        seed=seed,
        folder=run.path.relative_to(comparison).as_posix(),
        overrides=overrides,
        scores={
            split: {name: value for name, value in sorted(card.values.items()) if math.isfinite(value)}
            for split, card in cards.items()
        },
        curves=curves,
        seconds=seconds_of(run),
        parameters=metrics.get("parameters", {}),
        versions=metrics.get("versions", {}),
    )


def seconds_of(run: RunFolder) -> float | None:
    """How long a run trained; None where it did not finish, or was resumed: then only the last part is known.

    Raises:
        UserError: its metrics.json cannot be read.
    """
    if not run.metrics.is_file() or len(list(run.path.glob("logs/csv/version_*"))) > 1:
        return None
    seconds = read_json(run.metrics, "metrics").get("training", {}).get("seconds")
    return None if seconds is None else float(seconds)
