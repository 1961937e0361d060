"""The runs of a comparison scored on the same studies, and each variant compared with the baseline."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate

from hardneg_plugin.comparison.comparison import (
    SCORED_SPLITS,
    Comparison,
    SplitResult,
    variant_result,
)
from hardneg_plugin.comparison.contrasts import compare_pairs
from hardneg_plugin.comparison.planned_runs import PlannedRun
from hardneg_plugin.comparison.settings import ALPHA, ComparisonSettings
from hardneg_plugin.comparison.task_files import add_tasks, read_task, task_files, tasks_of_all
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import read_predictions
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.significance import intervals
from hardneg_plugin.metrics.statistics import means_of_runs
from hardneg_plugin.runs.folder import RunFolder

MAY_LACK = {
    "findings_": "findings are not known",
    "informativeness": "findings are not known",
    "likelihood_": "not all runs have it; metrics.rank_by_likelihood=[val,test] scores it on both splits",
}
"""Measures that runs may lack, by the begin of their names, and why."""


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of all runs on one split."""

    ids: list[str]
    """Of the studies, sorted."""
    cards: dict[str, list[ScoreCard]]
    """By variant, one for each seed."""


def score_split(runs: Mapping[str, Sequence[RunFolder]], split: str, caption: CaptionScores | None) -> ScoredSplit:
    """Score the predictions of finished runs, and add the scores of downstream tasks that all of them did.

    Args:
        runs: by variant, one for each seed.
        split: "val" or "test".
        caption: as in `score_records`.

    Raises:
        UserError: predictions cannot be read, or two runs differ in their studies.
    """
    first: tuple[Path, dict[str, str]] | None = None
    peers = None
    ids: list[str] = []
    cards: dict[str, list[ScoreCard]] = {name: [] for name in runs}
    tasks, _ = tasks_of_all(runs, split)
    write_reports = any(folder.predictions(split).is_file() for folders in runs.values() for folder in folders)
    if not write_reports and not tasks:
        raise UserError(
            f"These runs write no reports, and there is no task that all of them did on {split}. Set "
            "compare.tasks=[retrieval,zero_shot]."
        )
    for variant, folders in runs.items():
        for folder in folders:
            path, files = folder.predictions(split), task_files(folder, split)
            card = ScoreCard()
            if write_reports:
                records = sorted(read_predictions(path), key=lambda record: record["id"])
                for record in records:
                    record.pop("cut_reference", None)  # no table shows scores against these
                references = {record["id"]: record["reference"] for record in records}
                if first is None:
                    first, peers, ids = (path, references), Peers.of_records(records), list(references)
                _check_same_studies(first, (path, references))
                card = score_records(records, caption=caption, peers=peers)
            ids = ids or [row["id"] for row in read_task(files[tasks[0]])]
            add_tasks(card, [files[task] for task in tasks], ids)
            cards[variant].append(card)
    return ScoredSplit(ids, cards)


def compare_split(
    scored: ScoredSplit,
    baseline: str,
    measures: Sequence[str],
    resamples: int,
    seeds: Mapping[str, Sequence[int]] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> SplitResult:
    """Compare every variant with the baseline, and further pairs of variants, under the seeds that both have.

    Args:
        scored: the scores of all runs.
        baseline: one of the variants.
        measures: scores whose p-values are corrected together.
        resamples: draws for intervals and p-values, >= 1.
        seeds: by variant, those of its runs; None: all variants have the same. Two that are compared share one.
        pairs: further variants, each with the one that it is compared with.
    """
    statistics = {variant: [card.statistics for card in cards] for variant, cards in scored.cards.items()}
    by_seed = {
        variant: dict(zip(seeds[variant] if seeds else range(len(of_runs)), of_runs, strict=True))
        for variant, of_runs in statistics.items()
    }
    with_baseline = [(variant, baseline) for variant in statistics if variant != baseline]
    contrasts = compare_pairs(by_seed, [*with_baseline, *pairs], measures, resamples)
    of_means = {
        variant: intervals(list(means_of_runs(of_runs).values()), resamples=resamples, level=1 - ALPHA)
        for variant, of_runs in statistics.items()
    }
    return SplitResult(
        studies=len(scored.ids),
        sha256=hashlib.sha256("\n".join(scored.ids).encode()).hexdigest(),
        intervals={
            variant: {measure: found_intervals[measure] for measure in measures}
            for variant, found_intervals in of_means.items()
        },
        differences={contrast.variant: contrast.differences for contrast in contrasts[: len(with_baseline)]},
        pairs=contrasts[len(with_baseline) :],
    )


def compare_variants(
    runs: Mapping[str, Sequence[PlannedRun]], settings: ComparisonSettings, notes: Sequence[str] = ()
) -> Comparison:
    """Score the runs on both splits and compare each variant with the baseline.

    Args:
        runs: by variant, finished, one per seed; the baseline is among them, and every variant has one of its seeds.
        settings: of the comparison.
        notes: of the comparison, beside those on what the runs lack.
    """
    notes = list(notes)
    seeds = {name: [run.seed for run in some] for name, some in runs.items()}
    folders = {name: [run.folder for run in some] for name, some in runs.items()}
    caption = instantiate(runs[settings.baseline][0].settings["metrics"]["caption"])
    scored = {split: score_split(folders, split, caption) for split in SCORED_SPLITS}
    for split in SCORED_SPLITS:
        if partly := tasks_of_all(folders, split)[1]:
            notes.append(f"{', '.join(partly)} on {split}: left out because not all runs did it.")
    measures = available_measures(scored, settings.measures)
    for name in settings.measures:
        if missing := [split for split in SCORED_SPLITS if name not in measures[split]]:
            where = f" on {missing[0]}" if len(missing) < len(SCORED_SPLITS) else ""
            notes.append(f"{name} is left out{where}: {_why_lacking(name)}.")
    pairs = []
    for one, other in settings.pairs:
        if set(seeds.get(one, [])).isdisjoint(seeds.get(other, [])):
            notes.append(f"{one} against {other} is left out: they have no finished seed in common.")
        else:
            pairs.append((one, other))
    return Comparison(
        baseline=settings.baseline,
        seeds=settings.seeds,
        measures=measures["test"],
        resamples=settings.resamples,
        variants={
            name: variant_result(
                folders[name],
                seeds[name],
                [override for override in some[0].overrides if not override.startswith("seed=")],
                {split: scored[split].cards[name] for split in SCORED_SPLITS},
            )
            for name, some in runs.items()
        },
        splits={
            split: compare_split(scored[split], settings.baseline, measures[split], settings.resamples, seeds, pairs)
            for split in SCORED_SPLITS
        },
        notes=notes,
    )


def available_measures(scored: Mapping[str, ScoredSplit], measures: Sequence[str]) -> dict[str, list[str]]:
    """By split the measures that all runs have there; on val no others than on test. See `MAY_LACK`.

    Args:
        scored: by split.
        measures: names of scores.

    Raises:
        UserError: none is left on val, by which the best variant is chosen; or runs lack another score.
    """
    shared = {split: _shared_scores(scored[split]) for split in scored}
    on_all = set.intersection(*shared.values())
    wrong = [name for name in measures if name not in on_all and _why_lacking(name) is None]
    available = {split: [name for name in measures if name in shared[split] & shared["test"]] for split in scored}
    if wrong or not available["val"]:
        raise UserError(
            f"compare.measures: expected scores that all runs have, but got {', '.join(wrong or measures)}. There are: "
            f"{', '.join(sorted(on_all - {'length'}))}. The same command with other measures trains nothing again."
        )
    return available


def _shared_scores(scored: ScoredSplit) -> set[str]:
    """The names of the scores that all runs have."""
    cards = [card for of_variant in scored.cards.values() for card in of_variant]
    return set.intersection(*({name for statistic in card.statistics for name in statistic.values()} for card in cards))


def _why_lacking(measure: str) -> str | None:
    """Why runs may lack a measure; None: they may not."""
    return next((why for begin, why in MAY_LACK.items() if measure.startswith(begin)), None)


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
