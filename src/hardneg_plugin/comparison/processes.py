"""Processes that train the runs of a comparison and do their downstream tasks."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hardneg_plugin.comparison.comparison import SCORED_SPLITS
from hardneg_plugin.comparison.planned_runs import PlannedRun
from hardneg_plugin.comparison.task_files import task_files
from hardneg_plugin.files import open_no_link
from hardneg_plugin.runs.overrides import quoted

TRAIN = (sys.executable, "-m", "hardneg_plugin.apps.train")
TASKS = (sys.executable, "-m", "hardneg_plugin.apps.tasks")
POLL = 0.2
"""Seconds between two checks of the processes."""
PATIENCE = (
    ((signal.SIGINT, 30.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
    if os.name == "posix"
    else ((signal.SIGTERM, 10.0),)
)
"""The signals that end a process, each with the seconds that it then has."""


@dataclass
class RunProcess:
    """A process that trains one or several runs, or does the downstream tasks of one."""

    runs: list[PlannedRun]
    arguments: list[str]
    """Those of the command."""
    log: Path
    command: tuple[str, ...] | None = None
    """None means hardneg-train."""
    is_done: Callable[[PlannedRun], bool] = lambda run: run.state == "finished"
    """Whether its work on a run is done."""
    popen: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    seconds: float = 0.0

    def start(self, environment: dict[str, str], lock: int) -> None:
        """Start the process in a new session, so that the terminal does not interrupt it as well.

        Args:
            environment: its environment variables.
            lock: a file descriptor that it inherits.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with open(self.log, "ab", opener=open_no_link) as log:
            self.popen = subprocess.Popen(
                [*(self.command or TRAIN), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
                # a training that outlives this process keeps the folder locked
                pass_fds=(lock,) if os.name == "posix" else (),
            )

    @property
    def is_running(self) -> bool:
        """Whether the process has started and not ended."""
        return self.popen is not None and self.popen.poll() is None

    @property
    def error(self) -> str:
        """The last line of its log, or how it ended."""
        assert self.popen is not None
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        if self.popen.returncode < 0:
            return f"ended by {signal.Signals(-self.popen.returncode).name}"
        last = re.sub(r"^\S+: error: ", "", lines[-1]) if lines else ""  # the form of this project's commands
        return last or f"ended with code {self.popen.returncode}"


def local_processes(runs: Sequence[PlannedRun]) -> list[RunProcess]:
    """A process for each run that is not finished; an interrupted run is resumed."""
    return [
        RunProcess([run], [f"hydra.run.dir={quoted(run.folder.path)}", *_start_or_resume(run)], run.log)
        for run in runs
        if run.state != "finished"
    ]


def launched_processes(runs: Sequence[PlannedRun], launcher: str, options: Sequence[str]) -> list[RunProcess]:
    """A process for each variant, which hands its missing runs to a Hydra launcher, and one for each interrupted run.

    Args:
        runs: all runs of the comparison.
        launcher: name of the launcher, such as "submitit_slurm".
        options: overrides of `hydra.launcher`.
    """
    processes = []
    for variant in dict.fromkeys(run.variant for run in runs):
        of_variant = [run for run in runs if run.variant == variant]
        missing = [run for run in of_variant if run.state == "missing"]
        interrupted = [[run] for run in of_variant if run.state == "interrupted"]
        for group in filter(None, [missing, *interrupted]):
            first = group[0]
            seeds = ",".join(str(run.seed) for run in group)
            if first.state == "missing":
                arguments = [*(o for o in first.overrides if not o.startswith("seed=")), f"seed={seeds}"]
            else:
                arguments = _start_or_resume(first)
            sweep = first.folder.path.parent
            arguments = [
                "--multirun",
                f"hydra/launcher={launcher}",
                *options,
                *arguments,
                f"hydra.sweep.dir={quoted(sweep)}",
                "hydra.sweep.subdir=seed_${seed}",
            ]
            processes.append(RunProcess(group, arguments, sweep / f"launcher_{seeds.replace(',', '_')}.log"))
    return processes


def task_processes(runs: Sequence[PlannedRun], tasks: Sequence[str]) -> list[RunProcess]:
    """A process for each finished run that lacks a downstream task on a split.

    Args:
        runs: all runs of the comparison.
        tasks: names of the tasks.
    """

    def missing(run: PlannedRun) -> list[str]:
        done = set.intersection(*(set(task_files(run.folder, split)) for split in SCORED_SPLITS))
        return [task for task in tasks if task not in done]

    return [
        RunProcess(
            [run],
            # trusted: its settings have been compared with those of this command
            [
                f"run={quoted(run.folder.path)}",
                f"tasks=[{','.join(missing(run))}]",
                f"split=[{','.join(SCORED_SPLITS)}]",
                "trust=true",
            ],
            run.folder.path / "tasks.log",
            TASKS,
            lambda run: not missing(run),
        )
        for run in runs
        if run.state == "finished" and missing(run)
    ]


def run_all(
    processes: Sequence[RunProcess],
    jobs: int,
    lock: int,
    report_progress: Callable[[Sequence[RunProcess], Sequence[RunProcess]], None],
) -> dict[str, RunProcess]:
    """Run all processes, several at a time. One that fails does not stop the others; an interrupt stops all.

    Args:
        processes: in the order in which they start.
        jobs: the most processes at a time, >= 1.
        lock: a file descriptor that the processes inherit.
        report_progress: called at every check with the processes that run and those that have ended.

    Returns:
        The process of each run that did not finish, by the run's name.

    Raises:
        KeyboardInterrupt: an interrupt has ended all processes.
        SystemExit: a SIGTERM has.
    """
    environment = dict(os.environ)
    if jobs > 1:  # they share the cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    waiting = list(processes)
    running: list[RunProcess] = []
    ended: list[RunProcess] = []
    failed: dict[str, RunProcess] = {}
    with _ended_by_sigterm():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(waiting.pop(0))  # before it starts: a signal may arrive while it does
                    running[-1].start(environment, lock)
                report_progress(running, ended)
                time.sleep(POLL)
                for process in [process for process in running if not process.is_running]:
                    running.remove(process)
                    ended.append(process)
                    process.seconds = time.monotonic() - process.started
                    failed |= {run.name: process for run in process.runs if not process.is_done(run)}
            report_progress(running, ended)
        finally:
            _stop(running)
    return failed


def _stop(processes: Sequence[RunProcess]) -> None:
    """End all processes."""
    for number, seconds in PATIENCE:
        deadline = time.monotonic() + seconds
        for process in processes:
            if process.popen is not None and process.is_running:
                process.popen.send_signal(number)
        while any(process.is_running for process in processes) and time.monotonic() < deadline:
            time.sleep(POLL)


def _start_or_resume(run: PlannedRun) -> list[str]:
    if run.state == "missing":
        return run.overrides
    # trusted: its settings have been compared with those of this command
    return [f"resume={quoted(run.folder.path)}", "trust=true"]


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn a SIGTERM into a SystemExit, so that the processes are ended on the way out."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
