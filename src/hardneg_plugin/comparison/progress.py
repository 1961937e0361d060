"""The progress of a comparison: a status line, and a line for each run that has ended."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from hardneg_plugin.comparison.planned_runs import PlannedRun
from hardneg_plugin.comparison.processes import RunProcess
from hardneg_plugin.plain_console import PlainConsole
from hardneg_plugin.terminal import printable

REFRESH = 5.0
"""Seconds between two readings of scores."""


class ComparisonProgress:
    """The `report_progress` of `run_all`, as a context manager.

    Args:
        runs: all runs of the comparison.
        jobs: how many processes run at a time.
        known: seconds of training of earlier runs, for the estimate.
        last_score: the latest score of a run as a text; empty if it has none.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], jobs: int, known: Sequence[float], last_score: Callable[[PlannedRun], str]
    ) -> None:
        self.runs, self.jobs, self.known, self.last_score = runs, jobs, known, last_score
        self.console = PlainConsole(stderr=True)
        self.line = self.console.status("")
        self.started = time.monotonic()
        self._reported = 0
        self._score, self._score_read = "", 0.0

    def __enter__(self) -> "ComparisonProgress":
        self.line.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.line.stop()

    def __call__(self, running: Sequence[RunProcess], ended: Sequence[RunProcess]) -> None:
        """Print the runs that have ended since the last call, and update the status line.

        Args:
            running: processes that run.
            ended: processes that have ended, in that order.
        """
        for process in ended[self._reported :]:
            for run in process.runs:
                how = f"finished{self.last_score(run)}" if process.is_done(run) else f"did not finish: {process.error}"
                self.console.print(
                    f"[{self.finished}/{len(self.runs)}] {run.name}: {how} ({format_seconds(process.seconds)})"
                )
        self._reported = len(ended)
        if running and time.monotonic() - self._score_read > REFRESH:
            self._score, self._score_read = self.last_score(running[0].runs[0]), time.monotonic()
        names = "; ".join(run.name for process in running for run in process.runs)
        told = (
            f"{self.finished} of {len(self.runs)} runs finished, {format_seconds(time.monotonic() - self.started)}"
            f"{self._left(running, ended)}: {names}{self._score}"
        )
        self.line.update(printable(told).replace("[", "\\["))

    @property
    def finished(self) -> int:
        """The number of finished runs."""
        return sum(run.state == "finished" for run in self.runs)

    def _left(self, running: Sequence[RunProcess], ended: Sequence[RunProcess]) -> str:
        """The time left at the pace of the finished runs, as a text."""
        seconds = [
            process.seconds / len(process.runs)
            for process in ended
            if all(run.state == "finished" for run in process.runs)
        ] or list(self.known)
        if not seconds:
            return ""
        ended_runs = {run.name for process in ended for run in process.runs}
        to_do = sum(run.state != "finished" and run.name not in ended_runs for run in self.runs)
        spent = sum(time.monotonic() - process.started for process in running)
        return f", about {format_seconds(max(0.0, to_do * float(np.mean(seconds)) - spent) / self.jobs)} left"


def format_seconds(seconds: float) -> str:
    """A duration as a short text.

    >>> format_seconds(42), format_seconds(754), format_seconds(8040)
    ('42 s', '12 min 34 s', '2 h 14 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
