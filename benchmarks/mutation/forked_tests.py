"""Tests that are collected once and run in a fork for each mutant: only those that call the function with the fault."""

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from mutation.code_swap import CannotSwap, ImportedModule, all_functions
from mutation.operators import Mutant

SURVIVED, KILLED, ANEW, TIMED_OUT, NOT_REACHED = "survived", "killed", "anew", "timed out", "not reached"
CODES = {0: SURVIVED, 1: KILLED, 3: ANEW}


@dataclass
class Outcome:
    """What became of a mutant."""

    outcome: str
    by: str
    """The test that failed."""
    seconds: float


class ForkedTests:
    """A pytest plugin in place of the loop that runs tests.

    Args:
        package: folder of the package.
        mutants: to try.
        report: called with each mutant and what became of it.
        slowest: tests that take more seconds are left out.
        most: seconds of tests for one mutant: those in the file named after its module first, then the fastest; None: all.
    """

    def __init__(
        self,
        package: Path,
        mutants: Sequence[Mutant],
        report: Callable[[Mutant, Outcome], None],
        slowest: float,
        most: float | None = None,
    ) -> None:
        self.package, self.mutants, self.report, self.slowest, self.most = package, mutants, report, slowest, most
        self.modules = {path: ImportedModule(package / path) for path in {mutant.path for mutant in mutants}}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every test once, then those of each mutant."""
        functions = all_functions()
        for module in self.modules.values():
            module.find(functions)
        seconds, hits = self._first_run(session.items)
        for mutant in self.mutants:
            items = [item for item in session.items if (mutant.path, mutant.function) in hits.get(item.nodeid, ())]
            own = f"test_{Path(mutant.path).stem}.py"
            items.sort(key=lambda item, own=own: (item.path.name != own, seconds[item.nodeid]))  # type: ignore[misc]
            if self.most is not None:
                ends = itertools.accumulate(seconds[item.nodeid] for item in items)
                items = [item for item, end in zip(items, ends, strict=True) if end <= self.most] or items[:1]
            if not items:
                self.report(mutant, Outcome(ANEW if not mutant.function else NOT_REACHED, "", 0.0))
                continue
            limit = 30 + 20 * sum(seconds[item.nodeid] for item in items)
            self.report(mutant, in_fork(lambda tell, m=mutant, i=items: self._try(m, i, tell), limit))  # type: ignore
        return True

    def _try(self, mutant: Mutant, items: list[pytest.Item], tell: Callable[[str], None]) -> int:
        try:
            self.modules[mutant.path].swap(mutant.source, mutant.function)
        except CannotSwap:
            return 3
        for item, following in zip(items, [*items[1:], None], strict=True):
            if _fails(item, following):
                tell(item.nodeid)
                return 1
        return 0

    def _first_run(self, items: list[pytest.Item]) -> tuple[dict[str, float], dict[str, set[tuple[str, str]]]]:
        """The seconds of each test that passes, and the functions that it calls, in its processes too."""
        record = Path(f"/tmp/mutants_{os.getpid()}.jsonl")
        record.touch()

        def run(tell: Callable[[str], None]) -> int:
            calls = _Calls(self.modules, record)
            for item, following in zip(items, [*items[1:], None], strict=True):
                began = time.process_time()  # other processes do not count
                calls.begin(item)
                failed = _fails(item, following)
                calls.end()
                calls.write({"test": item.nodeid, "seconds": time.process_time() - began, "failed": failed})
            return 0

        outcome = in_fork(run, 1500)
        seconds: dict[str, float] = {}
        hits: dict[str, set[tuple[str, str]]] = {}
        shared: dict[str, set[tuple[str, str]]] = {}
        for row in map(json.loads, record.read_text().splitlines()):
            if "seconds" not in row:
                hit = (row["path"], row["function"])
                hits.setdefault(row["test"], set()).add(hit)
                shared.setdefault(row["test"].split("::")[0], set()).update([hit] if row["setup"] else [])
            elif row["failed"]:
                print(f"  left out, fails without a fault: {row['test']}")
            elif row["seconds"] <= self.slowest:
                seconds[row["test"]] = row["seconds"]
            else:
                print(f"  left out, takes {row['seconds']:.1f} s: {row['test']}")
        record.unlink()
        if outcome.outcome != SURVIVED:
            raise RuntimeError(f"the tests without a fault: {outcome}")
        print(f"  {len(seconds)} tests, {sum(seconds.values()):.0f} s", flush=True)
        # what a fixture of a whole file calls counts for all its tests
        return seconds, {test: hits.get(test, set()) | shared.get(test.split("::")[0], set()) for test in seconds}


class _Calls:
    """Writes which functions of some modules a test calls."""

    def __init__(self, modules: dict[str, ImportedModule], record: Path) -> None:
        self.modules = {module.file: (path, module) for path, module in modules.items()}
        self.file = os.open(record, os.O_WRONLY | os.O_APPEND)
        self.names: dict[int, str] = {}

    def begin(self, item: pytest.Item) -> None:
        self.item, self.seen = item, set[int]()
        threading.setprofile(self._call)
        sys.setprofile(self._call)

    def end(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore

    def write(self, row: dict[str, Any]) -> None:
        os.write(self.file, (json.dumps(row) + "\n").encode())

    def _call(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_filename not in self.modules or id(code) in self.seen:
            return
        self.seen.add(id(code))
        path, module = self.modules[code.co_filename]
        if id(code) not in self.names:
            self.names[id(code)] = module.function_of(code)
        setup = not os.environ.get("PYTEST_CURRENT_TEST", "(call)").endswith("(call)")
        self.write({"test": self.item.nodeid, "path": path, "function": self.names[id(code)], "setup": setup})


def _fails(item: pytest.Item, following: pytest.Item | None) -> bool:
    return any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))


def in_fork(run: Callable[[Callable[[str], None]], int], limit: float) -> Outcome:
    """Run something in a forked process group, which is killed after a time; what it prints is dropped.

    Args:
        run: called with a function that takes the reason for its exit code, one of `CODES`.
        limit: seconds.
    """
    reading, writing = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reading)
        code = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            code = run(lambda text: os.write(writing, text.encode()) and None)
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:500])
        finally:
            os._exit(code)
    os.close(writing)
    status = None
    try:
        while status is None and time.perf_counter() - began < limit:
            pid, ended = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(ended) if pid else None
            time.sleep(0 if pid else 0.01)
    finally:  # it, and processes that it left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        by = told.read().decode(errors="replace")
    outcome = TIMED_OUT if status is None else CODES.get(status, KILLED)
    return Outcome(outcome, by, time.perf_counter() - began)
