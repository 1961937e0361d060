"""What a comparison found: the scores of every run, and how each variant differs from the baseline on the same studies."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.json_file import read_json
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.significance import compare, holm, intervals
from hardneg_plugin.metrics.tally import Floats, Tally
from hardneg_plugin.runs.run_folder import RunFolder
from hardneg_plugin.scoring.card import ScoreCard, score_records
from hardneg_plugin.scoring.peers import Peers
from hardneg_plugin.scoring.record import read_predictions

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


@dataclass(frozen=True)
class ScoredSplit:
    """The runs of all variants on the same studies."""

    ids: list[str]
    cards: dict[str, list[ScoreCard]]


def score_split(runs: Mapping[str, Sequence[RunFolder]], split: str, caption: CaptionScores | None) -> ScoredSplit:
    """Score the predictions of finished runs.

    Args:
        runs: by variant, one for each seed.
        split: "val" or "test".
        caption: as in `score_records`.

    Raises:
        UserError: predictions cannot be read, or two runs differ in their studies.
    """
    first: tuple[Path, dict[str, str]] | None = None
    peers = None
    cards: dict[str, list[ScoreCard]] = {}
    for variant, folders in runs.items():
        for folder in folders:
            path = folder.predictions(split)
            records = sorted(read_predictions(path), key=lambda record: record["id"])
            references = {record["id"]: record["reference"] for record in records}
            if first is None:
                first, peers = (path, references), Peers.of(records)
            _check_same_studies(first, (path, references))
            cards.setdefault(variant, []).append(score_records(records, caption=caption, peers=peers))
    assert first is not None
    return ScoredSplit(list(first[1]), cards)


def compare_split(scored: ScoredSplit, baseline: str, measures: Sequence[str], resamples: int) -> SplitResult:
    """Every variant against the baseline.

    Args:
        scored: the runs.
        baseline: one of their variants.
        measures: scores over which p-values are corrected.
        resamples: draws behind intervals and p-values.
    """
    tallies = {variant: [card.tallies for card in cards] for variant, cards in scored.cards.items()}
    found = {
        variant: compare(own, tallies[baseline], resamples=resamples, level=1 - ALPHA)
        for variant, own in tallies.items()
        if variant != baseline
    }
    family = [(variant, measure) for variant in found for measure in measures]
    corrected = dict(zip(family, holm([found[v][m].p_value for v, m in family]), strict=True))
    return SplitResult(
        studies=len(scored.ids),
        sha256=hashlib.sha256("\n".join(scored.ids).encode()).hexdigest(),
        intervals={
            variant: intervals(mean_over_seeds(own), resamples=resamples, level=1 - ALPHA)
            for variant, own in tallies.items()
        },
        differences={
            variant: {
                name: Compared(d.difference, d.low, d.high, d.p_value, corrected.get((variant, name)))
                for name, d in differences.items()
            }
            for variant, differences in found.items()
        },
    )


def measures_there(scored: Sequence[ScoredSplit], measures: Sequence[str]) -> list[str]:
    """Those measures that all runs have on all splits: findings may be unknown.

    Raises:
        UserError: there are none, or there is no such score.
    """
    cards = [card for split in scored for own in split.cards.values() for card in own]
    known = [{name for tally in card.tallies for name in tally.values()} for card in cards]
    shared = set.intersection(*known)
    there = [measure for measure in measures if measure in shared]
    wrong = [measure for measure in measures if measure not in shared and not measure.startswith("findings_")]
    if wrong or not there:
        raise UserError(
            f"compare.measures: expected scores that all runs have, but got {', '.join(wrong or measures)}. There are: "
            f"{', '.join(sorted(shared - {'length'}))}. The same command with others trains nothing again."
        )
    return there


def mean_over_seeds(tallies: Sequence[Sequence[Tally]]) -> list[Tally]:
    """Of R runs on the same studies, the tallies whose scores are the means of theirs."""
    by_names = [{tuple(tally.values()): tally for tally in own} for own in tallies]
    return [
        Tally(
            np.concatenate([own[names].rows for own in by_names], axis=1),
            _MeanOverSeeds(len(by_names), by_names[0][names]),
        )
        for names in by_names[0]
        if all(names in own for own in by_names)
    ]


@dataclass(frozen=True)
class _MeanOverSeeds:
    seeds: int
    of_one: Tally

    def __call__(self, sums: Floats) -> dict[str, Floats]:
        by_seed = sums.reshape(*sums.shape[:-1], self.seeds, -1)
        return {name: values.mean(axis=-1) for name, values in self.of_one.scores(by_seed).items()}


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


def _check_same_studies(first: tuple[Path, dict[str, str]], other: tuple[Path, dict[str, str]]) -> None:
    (path, expected), (other_path, references) = first, other
    if expected == references:
        return
    differing = sorted(
        study for study in expected.keys() | references.keys() if expected.get(study) != references.get(study)
    )
    what = "has other studies" if expected.keys() != references.keys() else "has other references"
    raise UserError(
        f"{other_path} {what} than {path}, such as {json.dumps(differing[0])}: only runs on the same studies can be compared. "
        "Have all variants use the same data, tokenizer and limits on batches."
    )
