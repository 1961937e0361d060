"""The result of a comparison: the scores of every run, and how each variant differs from the baseline on the same studies."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import read_json
from hardneg_plugin.metrics.directions import directions_of
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.score_names import OF_TASKS
from hardneg_plugin.metrics.significance import smallest_p_value
from hardneg_plugin.runs.folder import RunFolder

OVER_BOTH = "studies and seeds"
"""P-values from the draws of the intervals, see `metrics.significance.compare`."""
OVER_STUDIES = "studies"
"""P-values by approximate randomisation over studies, the trainings as they are: those of comparisons made before."""
SCORED_SPLITS = ("val", "test")
USUAL = (
    "informativeness",
    "findings_F1",
    "findings_F1_rare",
    "BLEU-4",
    "METEOR",
    "ROUGE-L",
    "CIDEr",
    "R@1",
    "unique_share",
)
"""The scores that tables show beside the measures that count and those of downstream tasks."""


@dataclass(frozen=True)
class VariantResult:
    """The finished runs of one variant, in the order of the comparison's seeds."""

    overrides: list[str]
    """What hardneg-train takes to make a run again, but for its seed."""
    scores: dict[str, dict[str, list[float | None]]]
    """By split and name, the score of each run; None where it does not have it."""
    seconds: list[float | None]
    """Of training; None for a run that was resumed, of which only the last part is known."""
    parameters: dict[str, int]
    versions: dict[str, list[str]]
    """By package, those that the runs were trained with."""
    seeds: list[int]
    """Those of the runs: all of the comparison's, or those whose runs are finished."""


@dataclass(frozen=True)
class VariantDifference:
    """A score of a variant less that of another, means over the seeds that both have."""

    difference: float
    low: float
    high: float
    p_value: float
    corrected: float | None
    """By Holm, over all comparisons of the measures that count; None for other scores."""


@dataclass(frozen=True)
class Contrast:
    """A variant against another."""

    variant: str
    other: str
    differences: dict[str, VariantDifference]
    """By score that tables show."""


@dataclass(frozen=True)
class SplitResult:
    """All variants on one split."""

    studies: int
    sha256: str
    """Of the sorted ids of the studies, one a line."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    """By variant and measure that counts on this split, of the mean over seeds: studies resampled, trainings as they are."""
    differences: dict[str, dict[str, VariantDifference]]
    """From the baseline, by variant and score that tables show; the baseline has none."""
    pairs: list[Contrast]
    """Further variants against each other, as asked for."""


@dataclass(frozen=True)
class Comparison:
    """What the tables show: written to comparison.json."""

    baseline: str
    seeds: list[int]
    measures: list[str]
    """The scores that count; the first that val has chooses."""
    resamples: int
    variants: dict[str, VariantResult]
    splits: dict[str, SplitResult]
    notes: list[str]
    """For the reader: variants and measures that are left out."""
    p_values_over: str = OVER_BOTH
    """What p-values are over, `OVER_BOTH` as intervals are; `OVER_STUDIES` where `read` found a file that does not say."""

    @property
    def floor(self) -> float:
        """The smallest p-value that the draws can give, before correction."""
        smallest = smallest_p_value(self.resamples)
        return smallest if self.p_values_over == OVER_BOTH else smallest / 2

    def number_of_tests(self, split: str) -> int:
        """How many p-values are corrected together on a split."""
        found = self.splits[split]
        return (len(found.differences) + len(found.pairs)) * len(self.measures_on(split))

    def scores(self, variant: str, split: str, name: str) -> list[float]:
        """A score under each seed; empty if a run does not have it.

        Args:
            variant: its name.
            split: "val" or "test".
            name: of the score.
        """
        found = self.variants[variant].scores[split].get(name, [])
        return [value for value in found if value is not None] if None not in found else []

    def measures_on(self, split: str) -> list[str]:
        """The measures that the runs have on a split: those by likelihood may be of test alone."""
        return [measure for measure in self.measures if measure in self.splits[split].intervals[self.baseline]]

    def against_baseline(self, split: str) -> list[Contrast]:
        """Every other variant against the baseline."""
        found = self.splits[split].differences
        return [Contrast(variant, self.baseline, differences) for variant, differences in found.items()]

    def seed_differences(self, split: str, contrast: Contrast, name: str) -> list[float]:
        """The difference of a score under each seed that both variants of a contrast have; empty if a run does not have it.

        Args:
            split: "val" or "test".
            contrast: of two variants.
            name: of the score.
        """
        variant, other = (
            dict(zip(self.variants[key].seeds, self.scores(key, split, name), strict=False))
            for key in (contrast.variant, contrast.other)
        )
        return [variant[seed] - other[seed] for seed in variant if seed in other]

    @property
    def chosen_by(self) -> str:
        """The first measure that val has."""
        return self.measures_on("val")[0]

    @property
    def chosen(self) -> str:
        """The variant with the highest mean on val of `chosen_by`; the first of equal ones."""
        return max(self.variants, key=lambda variant: float(np.mean(self.scores(variant, "val", self.chosen_by))))

    @property
    def number_of_seeds(self) -> str:
        """How many seeds the variants have, such as "3", or "1 to 3" where not all runs are finished."""
        least, most = (some(len(result.seeds) for result in self.variants.values()) for some in (min, max))
        return f"{most}" if least == most else f"{least} to {most}"

    def to_json(self) -> dict[str, object]:
        """The comparison as plain values."""
        scored = [by_split for result in self.variants.values() for by_split in result.scores.values()]
        directions = directions_of(name for scores in scored for name in scores)
        return {**dataclasses.asdict(self), "directions": directions}

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """Read the result of `to_json` from a file.

        Raises:
            UserError: the file holds something else.
        """
        content = read_json(path, "comparison")
        try:
            variants = {
                name: VariantResult(**{"seeds": content["seeds"], **values})
                for name, values in content["variants"].items()
            }
            splits = {
                name: SplitResult(
                    studies=split["studies"],
                    sha256=split["sha256"],
                    intervals={
                        variant: {score: (low, high) for score, (low, high) in by_score.items()}
                        for variant, by_score in split["intervals"].items()
                    },
                    differences={variant: _differences(by_score) for variant, by_score in split["differences"].items()},
                    pairs=[
                        Contrast(pair["variant"], pair["other"], _differences(pair["differences"]))
                        for pair in split.get("pairs", [])
                    ],
                )
                for name, split in content["splits"].items()
            }
            content = {key: value for key, value in content.items() if key != "directions"}
            return cls(**{"p_values_over": OVER_STUDIES, **content, "variants": variants, "splits": splits})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Expected the comparison.json of hardneg-compare, but {path} holds something else ({error!r})."
            ) from error


def _differences(by_score: Mapping[str, Mapping[str, Any]]) -> dict[str, VariantDifference]:
    return {score: VariantDifference(**values) for score, values in by_score.items()}


def is_shown(name: str, measures: Sequence[str]) -> bool:
    """Whether the tables show a score: a measure that counts, a usual score, or one of a downstream task.

    Args:
        name: of the score.
        measures: those that count.

    >>> is_shown("pointing_game", ["specificity"]), is_shown("BLEU-1", ["specificity"])
    (True, False)
    """
    return name in measures or name in USUAL or OF_TASKS.fullmatch(name) is not None


def variant_result(
    runs: Sequence[RunFolder], seeds: list[int], overrides: list[str], cards: Mapping[str, Sequence[ScoreCard]]
) -> VariantResult:
    """What is kept of the finished runs of a variant.

    Args:
        runs: one for each seed.
        seeds: those of the runs.
        overrides: see `VariantResult`.
        cards: by split, the scores of each run.

    Raises:
        UserError: the metrics.json of a run cannot be read.
    """
    metrics = [read_json(run.metrics, "metrics") for run in runs]
    versions: dict[str, set[str]] = {}
    for of_run in metrics:
        for package, version in of_run.get("versions", {}).items():
            versions.setdefault(package, set()).add(version)
    return VariantResult(
        overrides=overrides,
        scores={split: _by_name([card.values for card in of_runs]) for split, of_runs in cards.items()},
        seconds=[seconds_of(run) for run in runs],
        parameters=metrics[0].get("parameters", {}),
        versions={package: sorted(of_runs) for package, of_runs in versions.items()},
        seeds=seeds,
    )


def _by_name(values: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Scores of runs by name; None where a run has none, or one that is not finite."""
    names = sorted({name for of_run in values for name, value in of_run.items() if math.isfinite(value)})
    columns = {name: [of_run.get(name, math.nan) for of_run in values] for name in names}
    return {name: [value if math.isfinite(value) else None for value in column] for name, column in columns.items()}


def seconds_of(run: RunFolder) -> float | None:
    """How long a run trained; None if it did not finish, or was resumed, since only the last part is known then.

    Raises:
        UserError: its metrics.json cannot be read.
    """
    if not run.metrics.is_file() or len(list(run.path.glob("logs/csv/version_*"))) > 1:
        return None
    seconds = read_json(run.metrics, "metrics").get("training", {}).get("seconds")
    return None if seconds is None else float(seconds)
