"""Parts in processes of their own: an error, a poisoned device or a hang ends one of them and no other."""

import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gpu_parts.part import LEFT_OUT, Part, Rows, Setting, short

Result = dict[str, Any]
GRACE = 3.0
"""Seconds that a part has to end by itself once its time is over."""


class Running:
    """A part that runs.

    Args:
        part: to run.
        setting: where.
        folder: for its rows and its log.
        method: of multiprocessing, "fork" or "spawn".
    """

    def __init__(self, part: Part, setting: Setting, folder: Path, method: str) -> None:
        self.part, self.folder = part, folder
        self.rows = Rows(folder / f"{part.name}.jsonl")
        self.rows.path.unlink(missing_ok=True)
        self.log, self.ended = folder / f"{part.name}.log", folder / f"{part.name}.end"
        self.ended.unlink(missing_ok=True)
        self.start = time.monotonic()
        self.kill_at = setting.ends + GRACE
        context: Any = multiprocessing.get_context(method)
        self.process: BaseProcess = context.Process(
            target=_run, args=(part, setting, self.rows.path, self.log, self.ended)
        )
        self.process.start()

    def poll(self) -> Result | None:
        """The result once there is one; a part beyond its time is killed."""
        is_late = time.monotonic() > self.kill_at
        if self.process.is_alive() and not is_late:
            return None
        self.kill()
        end = json.loads(self.ended.read_text()) if self.ended.is_file() else {}
        rows = self.rows.read()
        error = end.get("error")
        if not end:
            error = "stopped" if is_late else f"the process ended with {self.process.exitcode}"
        failed = [row[""] for row in rows if row.get("ok") is False]
        status = end.get("status", "out of time" if is_late else "failed")
        if failed:
            status = "failed"
        elif any(row[""] == LEFT_OUT for row in rows):
            status = "out of time"
        result: Result = {
            "status": status,
            "title": self.part.title,
            "seconds": round(time.monotonic() - self.start, 1),
            "rows": rows,
        }
        if error:
            result["error"] = error
        if failed:
            result["failed"] = failed
        return result

    def kill(self) -> None:
        """End the process with all that it started."""
        try:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.join()


def _run(part: Part, setting: Setting, rows: Path, log: Path, ended: Path) -> None:
    """In the process of the part."""
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    end: Result = {"status": "done"}
    try:
        module, _, name = part.call.partition(":")
        getattr(importlib.import_module(f"gpu_parts.{module}"), name or "run")(setting, Rows(rows))
    except ImportError as error:
        traceback.print_exc()
        end = {"status": "skipped", "error": short(error)}
    except BaseException as error:
        traceback.print_exc()
        end = {"status": "failed", "error": short(error)}
    whole = ended.with_suffix(".partial")
    whole.write_text(json.dumps(end))
    whole.rename(ended)


def missing(part: Part) -> list[str]:
    """The packages that a part needs and that are not here."""
    return [name for name in part.needs if importlib.util.find_spec(name) is None]


def run_parts(
    parts: Sequence[Part],
    setting: Setting,
    *,
    ends: float,
    together: int,
    method: str,
    folder: Path,
    finished: Callable[[Part, Result, str], None],
) -> None:
    """Run parts, those that measure no time several at once and first.

    Args:
        parts: in the order of their importance.
        setting: of all.
        ends: of the whole, by `time.monotonic()`.
        together: the most that run at once.
        method: of multiprocessing.
        folder: for rows and logs.
        finished: called with each part, its result and its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = sorted(parts, key=lambda part: part.timed)
    running: list[Running] = []
    try:
        while waiting or running:
            for one in list(running):
                result = one.poll()
                if result is not None:
                    running.remove(one)
                    finished(one.part, result, one.log.read_text(errors="replace") if one.log.is_file() else "")
            while waiting and _may_start(waiting[0], [one.part for one in running], together):
                part = waiting.pop(0)
                left = ends - time.monotonic()
                absent = missing(part)
                if absent:
                    finished(
                        part, {"status": "skipped", "title": part.title, "error": f"needs {', '.join(absent)}"}, ""
                    )
                elif left < GRACE:
                    finished(part, {"status": "not run", "title": part.title, "error": "no time left"}, "")
                else:
                    own = time.monotonic() + min(part.seconds, left - GRACE)
                    running.append(Running(part, replace(setting, studies=part.studies, ends=own), folder, method))
            time.sleep(0.02)
    finally:
        for one in running:  # an interrupt: what they have so far counts
            one.kill_at = 0.0
            result = one.poll()
            if result is not None:
                finished(one.part, result, "")


def _may_start(part: Part, running: Sequence[Part], together: int) -> bool:
    if part.timed or any(one.timed for one in running):
        return not running
    return len(running) < together
