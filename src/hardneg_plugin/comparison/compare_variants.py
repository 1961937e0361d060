"""From the finished runs of each variant to a comparison."""

from collections.abc import Mapping, Sequence

from hydra.utils import instantiate

from hardneg_plugin.comparison.comparison import SCORED_SPLITS, Comparison, variant_result
from hardneg_plugin.comparison.planned_runs import PlannedRun
from hardneg_plugin.comparison.scored import available_measures, compare_split, score_split
from hardneg_plugin.comparison.settings import ComparisonSettings
from hardneg_plugin.comparison.task_files import tasks_of_all


def compare_variants(
    runs: Mapping[str, Sequence[PlannedRun]], settings: ComparisonSettings, notes: Sequence[str] = ()
) -> Comparison:
    """Score the runs on both splits and compare each variant with the baseline.

    Args:
        runs: by variant, finished, one per seed; the baseline is among them.
        settings: of the comparison.
        notes: of the comparison, beside those on what the runs lack.
    """
    notes = list(notes)
    folders = {name: [run.folder for run in some] for name, some in runs.items()}
    caption = instantiate(runs[settings.baseline][0].settings["metrics"]["caption"])
    scored = {split: score_split(folders, split, caption) for split in SCORED_SPLITS}
    for split in SCORED_SPLITS:
        if partly := tasks_of_all(folders, split)[1]:
            notes.append(f"{', '.join(partly)} on {split}: left out because not all runs did it.")
    measures = available_measures(list(scored.values()), settings.measures)
    notes += [f"{name} is left out: findings are not known." for name in settings.measures if name not in measures]
    return Comparison(
        baseline=settings.baseline,
        seeds=settings.seeds,
        measures=measures,
        resamples=settings.resamples,
        variants={
            name: variant_result(
                folders[name],
                [override for override in some[0].overrides if not override.startswith("seed=")],
                {split: scored[split].cards[name] for split in SCORED_SPLITS},
            )
            for name, some in runs.items()
        },
        splits={
            split: compare_split(scored[split], settings.baseline, measures, settings.resamples)
            for split in SCORED_SPLITS
        },
        notes=notes,
    )
