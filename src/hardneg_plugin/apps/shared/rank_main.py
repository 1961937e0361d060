"""One rank of a job that a command started: it does the job and reports errors to the launcher."""

import contextlib
import json
import logging.config
import math
import multiprocessing
import os
import pkgutil
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from hardneg_plugin.apps.shared.failures import explain_failure, lost_connection
from hardneg_plugin.apps.shared.hydra_command import hush_libraries
from hardneg_plugin.apps.shared.ranks import Job
from hardneg_plugin.apps.shared.signs_of_life import signs_of_life
from hardneg_plugin.files import whole_file

REPORT = "rank_{rank}.json"
GRACE = 10.0
"""Seconds that an interrupted rank has to close its loggers; it may be waiting for a dead rank."""
PATIENCE = 1.0
"""Seconds that a failed rank waits before it ends: a killed rank closes its connections before the launcher sees it dead, and the
launcher is to see that death first."""


class Surroundings:
    """Working folder, environment and output of the launcher.

    A fork server has those of its own start. A process takes on the launcher's when it unpickles this, which is before torch's
    launcher adds the variables of the rank.
    """

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return _take_on, (os.getcwd(), dict(os.environ), DupFd(1), DupFd(2))


def _take_on(folder: str, environment: dict[str, str], output: Any, errors: Any) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in ((1, output), (2, errors)):
        descriptor = stream.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)


def main(surroundings: None, job_file: str) -> None:
    """Entry point of a rank.

    Args:
        surroundings: what is left of `Surroundings`.
        job_file: of the job; the rank writes its report of an error beside it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    _end_with(launcher.sentinel)
    # no other process writes progress; the default lock is a semaphore that `_end` would leave behind
    tqdm.set_lock(threading.RLock())
    job = Job.read(Path(job_file))
    hush_libraries()
    logging.config.dictConfig(job.logging)
    if "OMP_NUM_THREADS" not in os.environ:  # the ranks share the cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    try:
        # by name: the commands import this folder
        with signs_of_life(job.settings["rank_timeout"], lambda text, says: _end_for_silence(text, says, job_file)):
            pkgutil.resolve_name(f"hardneg_plugin.apps.{job.command}:{job.command}")(job)
    except KeyboardInterrupt:
        _end(1)
    except SystemExit as stop:  # by `agreed`: rank 0 reports it
        _end(stop.code if isinstance(stop.code, int) else 1)
    except BaseException as error:
        message = explain_failure(error, job) if isinstance(error, Exception) else None
        text = message or traceback.format_exc()
        is_lost = lost_connection(error) is not None
        _report(job_file, text, "lost" if is_lost else "error" if message is None else "explained")
        if message is None or is_lost:
            time.sleep(PATIENCE)
        _end(1)


def _report(job_file: str, text: str, kind: str) -> None:
    """Tell the launcher why this rank ends; `kind` is "explained", "error", "lost" or "silence"."""
    report = {"time": time.time(), "kind": kind, "text": text}
    # atomic: the launcher may end this rank while it writes
    with whole_file(Path(job_file).parent / REPORT.format(rank=os.environ["RANK"])) as file:
        file.write(json.dumps(report).encode())


def _end_for_silence(text: str, says: bool, job_file: str) -> None:
    """End this rank, which waits for one that gives no sign of life; the one that says so does it first."""
    if says:
        _report(job_file, text, "silence")
    else:
        time.sleep(PATIENCE)
    _end(1)


def _end(code: int) -> NoReturn:
    """End at once: clean-up could wait for ranks that wait for this one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _end_with(launcher: int) -> None:
    """End this process on SIGTERM or when the launcher is gone, whatever the main thread waits for.

    `launcher` is a descriptor that is at its end when the launcher is gone.

    Lightning's SIGTERM handler asks the other ranks, which may be dead, and Python runs no handler while the main thread is
    inside a collective call. Python does write the numbers of arriving signals into a pipe, which a thread reads here.
    """
    arrived, arriving = os.pipe()
    os.set_blocking(arriving, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # only signals with a handler are written
    signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget_the_pipe)

    def watch() -> None:
        deadline = math.inf
        while time.monotonic() < deadline:
            ready, _, _ = select.select([arrived, launcher], [], [], 0.2)
            numbers = os.read(arrived, 64) if arrived in ready else b""
            if signal.SIGTERM in numbers or launcher in ready:
                break
            if signal.SIGINT in numbers:
                deadline = time.monotonic() + GRACE
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _forget_the_pipe() -> None:
    with contextlib.suppress(ValueError):  # forked by another thread: it gets no signals
        signal.set_wakeup_fd(-1)
