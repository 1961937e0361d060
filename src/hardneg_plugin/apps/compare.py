"""hardneg-compare: train variants under several seeds, and say which differences between them hold."""

import dataclasses
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from omegaconf import DictConfig

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.comparison_plan import ComparisonPlan
from hardneg_plugin.apps.shared.console import HEADINGS, console, make_table
from hardneg_plugin.comparison.comparison import Comparison, seconds_of
from hardneg_plugin.comparison.curves import validation_curves
from hardneg_plugin.comparison.finished_runs import RunsByVariant, complete_variants, finished_runs
from hardneg_plugin.comparison.planned_runs import PlannedRun, at_work_on, check_same_settings, run_folder
from hardneg_plugin.comparison.plots import write_plots
from hardneg_plugin.comparison.processes import RunProcess, launched_processes, local_processes, run_all, task_processes
from hardneg_plugin.comparison.progress import ComparisonProgress
from hardneg_plugin.comparison.scored import compare_variants
from hardneg_plugin.comparison.settings import ComparisonSettings
from hardneg_plugin.comparison.summary import summary
from hardneg_plugin.comparison.tables import latex, markdown, tables
from hardneg_plugin.comparison.verdicts import cautions, choice, verdicts
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_text_file, write_json, writing
from hardneg_plugin.pages.from_runs import build_page
from hardneg_plugin.pages.overview import overview_of
from hardneg_plugin.pages.render import write_page
from hardneg_plugin.plain_console import PlainConsole
from hardneg_plugin.terminal import say

AGAIN = "Run the same command again to continue."
PARTIAL = "With compare.partial=true it compares those."


def main() -> None:
    """Entry point of hardneg-compare."""
    commands.compare()


def start(config: DictConfig, *, plan: ComparisonPlan) -> None:
    """Train the missing runs, do their tasks, and compare; `compare.partial` only compares.

    Args:
        config: composed from the arguments about the comparison.
        plan: made from it, and from the arguments about its runs.

    Raises:
        UserError: for any error that a user can cause.
    """
    settings, runs, for_launcher = plan.settings, plan.runs, plan.for_launcher
    with at_work_on(settings.path) as lock:
        check_same_settings(runs)
        try:
            failed = {}
            if not settings.partial:
                failed = _train_all(runs, settings, for_launcher, lock) | _do_tasks(runs, settings, lock)
            compared = _compare_runs(runs, settings, failed)
        except KeyboardInterrupt:
            finished = sum(run.state == "finished" for run in runs)
            jobs = f"{settings.launcher} may still run its jobs: wait for them or cancel them. "
            first = jobs if settings.launcher else ""
            then = f"{AGAIN} {PARTIAL}" if finished else AGAIN
            say(f"Interrupted; {finished} of {len(runs)} runs are finished. {first}{then}", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
    for name, process in failed.items():
        say(f"hardneg-compare: {name} did not finish: {process.error} ({process.log})", file=sys.stderr)
    if settings.partial and not compared:
        raise UserError(
            f"No run of {settings.baseline} is finished in {settings.path}: there is nothing to compare with."
        )
    if failed:
        nothing = "" if compared else f" Nothing is compared without all runs of {settings.baseline}."
        say(f"{len(failed)} of {len(runs)} runs did not finish.{nothing} {AGAIN}", file=sys.stderr)
        sys.exit(1)


def _train_all(
    runs: Sequence[PlannedRun], settings: ComparisonSettings, for_launcher: list[str], lock: int
) -> dict[str, RunProcess]:
    """Train the runs that are not finished; returns the processes of those that failed."""
    if settings.launcher is None:
        processes, jobs = local_processes(runs), settings.jobs
    else:
        processes = launched_processes(runs, settings.launcher, for_launcher)
        jobs = len(processes)
    if not processes:
        return {}
    known = [seconds for run in runs if (seconds := seconds_of(run.folder)) is not None]
    with ComparisonProgress(runs, jobs, known, partial(last_score, settings.measures)) as progress:
        return run_all(processes, jobs, lock, progress)


def _do_tasks(runs: Sequence[PlannedRun], settings: ComparisonSettings, lock: int) -> dict[str, RunProcess]:
    """Do the downstream tasks that finished runs lack, on this machine; returns the processes of those that failed."""
    processes = task_processes(runs, settings.tasks)
    if not processes:
        return {}
    with ComparisonProgress(runs, settings.jobs, [], lambda run: ", downstream tasks done") as progress:
        return run_all(processes, settings.jobs, lock, progress)


def last_score(measures: Sequence[str], run: PlannedRun) -> str:
    """The latest validation score of a run, as the end of a progress line.

    Args:
        measures: names of scores; the first that the run has is taken, else BLEU-4.
        run: finished or not.
    """
    try:
        curves = validation_curves(run.folder)
    except (OSError, UserError):  # while the training is writing
        return ""
    name = next((f"val/{name}" for name in (*measures, "BLEU-4") if f"val/{name}" in curves), None)
    return "" if name is None else f", {name} {curves[name][max(curves[name])]:.3f}"


def _compare_runs(
    runs: Sequence[PlannedRun], settings: ComparisonSettings, failed: Mapping[str, RunProcess]
) -> Comparison | None:
    """Compare the finished runs, write and print it; None where those of the baseline are not among them."""
    finished, notes = _to_compare(runs, settings, failed)
    if settings.baseline not in finished:
        return None
    with PlainConsole(stderr=True).status("Scoring and comparing"):
        compared = compare_variants(finished, settings, notes)
        curves = {name: [validation_curves(run.folder) for run in some] for name, some in finished.items()}
        with writing(settings.path, AGAIN):
            write_json(settings.path / "comparison.json", compared.to_json(), indent=None)
            for name, text in (
                ("summary.md", summary(compared)),
                ("comparison.md", markdown(compared)),
                ("comparison.tex", latex(compared)),
            ):
                with whole_text_file(settings.path / name) as file:
                    file.write(text)
            write_plots(compared, curves, settings.path / "plots")
    _print_comparison(compared)
    has_page = settings.page > 0 and finished[settings.baseline][0].folder.predictions("test").is_file()
    if has_page:
        _write_page_of(compared, settings)
    say(f"\nComparison    {settings.path}")
    say("  tables      summary.md, comparison.md, comparison.tex; their values: comparison.json")
    say(f"  plots       plots/{', page.html' if has_page else ''}")
    return compared


def _to_compare(
    runs: Sequence[PlannedRun], settings: ComparisonSettings, failed: Mapping[str, RunProcess]
) -> tuple[RunsByVariant, list[str]]:
    if settings.partial:
        return finished_runs(runs, settings.baseline)
    return complete_variants(runs, {name: process.error for name, process in failed.items()})


def _write_page_of(compared: Comparison, settings: ComparisonSettings) -> None:
    """Write page.html: the reports of each variant under the seed that is best on val."""
    best = {
        name: run_folder(
            settings.path, name, result.seeds[int(np.argmax(compared.scores(name, "val", compared.chosen_by)))]
        )
        for name, result in compared.variants.items()
    }
    with PlainConsole(stderr=True).status("Looking at studies for page.html"):
        # trusted: their settings have been compared with those of this command
        page = build_page(best, "test", settings.page, trust=True, by_difference=True, zoom=settings.zoom)
    seeds = ", ".join(f"{name} {folder.path.name.replace('_', ' ')}" for name, folder in best.items())
    of_one_run = f"Studies and curves are of one run of each variant, the best on validation: {seeds}."
    overview = overview_of(compared, page.baselines)
    overview = dataclasses.replace(overview, notes=[*overview.notes, of_one_run, *page.notes])
    others = len(compared.variants) - 1
    title = f"{compared.baseline} and {others} other variant{'' if others == 1 else 's'}, compared"
    page = dataclasses.replace(page, title=title, notes=[], scores={}, overview=overview)
    with writing(settings.path / "page.html", AGAIN):
        write_page(settings.path / "page.html", page)


def _print_comparison(compared: Comparison) -> None:
    """Print the tables, and in words what they show."""
    for table in tables(compared):
        shown = make_table(table.title, *(HEADINGS.get(name, name) for name in table.header))
        for row in table.rows:
            shown.add_row(*row)
        console(at_least=180).print(shown)
    say(*_in_words(compared), sep="\n")


def _in_words(compared: Comparison) -> list[str]:
    """What the tables show."""
    return [choice(compared), *verdicts(compared, "test"), *cautions(compared)]


if __name__ == "__main__":
    main()
