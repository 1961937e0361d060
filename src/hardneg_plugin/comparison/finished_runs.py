"""Which runs of a comparison are compared: variants that are complete, or whatever is finished."""

from collections.abc import Mapping, Sequence

from hardneg_plugin.comparison.planned_runs import PlannedRun

RunsByVariant = dict[str, list[PlannedRun]]


def complete_variants(runs: Sequence[PlannedRun], errors: Mapping[str, str]) -> tuple[RunsByVariant, list[str]]:
    """The runs of the variants whose runs are all finished, and a note on each other variant.

    Args:
        runs: all runs of the comparison.
        errors: by name of a run, why it did not finish.
    """
    complete, notes = {}, []
    for name, some in _by_variant(runs).items():
        if all(run.state == "finished" for run in some):
            complete[name] = some
            continue
        why = [f"seed {run.seed}: {errors[run.name].rstrip('.')}" for run in some if run.name in errors]
        notes.append(f"{name} is left out because not all of its runs are finished: {'; '.join(why)}.")
    return complete, notes


def finished_runs(runs: Sequence[PlannedRun], baseline: str) -> tuple[RunsByVariant, list[str]]:
    """The finished runs of the variants that share a seed with the baseline, and notes on what is missing.

    Args:
        runs: all runs of the comparison.
        baseline: the variant that the others are compared with.
    """
    found, notes, lacking = {}, [], []
    by_variant = _by_variant(runs)
    of_baseline = {run.seed for run in by_variant[baseline] if run.state == "finished"}
    for name, some in by_variant.items():
        finished, missing = ([run for run in some if (run.state == "finished") is state] for state in (True, False))
        if not finished:
            notes.append(f"{name} is left out: none of its runs is finished.")
        elif of_baseline.isdisjoint(run.seed for run in finished):
            notes.append(f"{name} is left out: {baseline} is not finished under {_seeds(finished)}.")
        else:
            found[name] = finished
            if missing:
                lacking.append(f"{name}, {_seeds(missing)}")
    if lacking:
        notes.append(f"Not finished: {'; '.join(lacking)}. Differences are under the seeds that both variants have.")
    return found, notes


def _by_variant(runs: Sequence[PlannedRun]) -> RunsByVariant:
    names = dict.fromkeys(run.variant for run in runs)
    return {name: [run for run in runs if run.variant == name] for name in names}


def _seeds(runs: Sequence[PlannedRun]) -> str:
    return f"seed{'s' if len(runs) > 1 else ''} {', '.join(str(run.seed) for run in runs)}"
