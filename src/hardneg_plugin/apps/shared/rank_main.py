"""One process of a job that a command started: it does the job, and tells the launcher what went wrong."""

import contextlib
import json
import logging.config
import math
import os
import pkgutil
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

import torch

from hardneg_plugin.apps.shared.hydra_command import explain, hush_libraries
from hardneg_plugin.apps.shared.job import Job
from hardneg_plugin.files import whole_file

REPORT = "rank_{rank}.json"
GRACE = 10.0
"""Seconds that an interrupted rank has to close its loggers; some wait for a rank that is gone."""
PATIENCE = 1.0
"""Seconds that a rank with an error of its own or another's lingers: a killed process closes its connections before it counts
as dead."""


def main() -> None:
    """Entry point of a rank: its only argument is the file of the job, beside which it leaves its report."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_the_launcher()
    job_file = Path(sys.argv[1])
    job = Job.read(job_file)
    hush_libraries()
    logging.config.dictConfig(job.logging)
    if "OMP_NUM_THREADS" not in os.environ:  # the ranks share the cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    try:
        # by name: the commands stand above what they share
        pkgutil.resolve_name(f"hardneg_plugin.apps.{job.command}:{job.command}")(job)
    except KeyboardInterrupt:
        _end(1)
    except SystemExit as stop:  # agreed upon: rank 0 tells
        _end(stop.code if isinstance(stop.code, int) else 1)
    except BaseException as error:
        message = explain(error, job.command) if isinstance(error, Exception) else None
        text = message or traceback.format_exc()
        report = {"time": time.time(), "explained": message is not None, "text": text}
        # whole, or not at all: where another rank ended first, this one may be ended while it writes
        with whole_file(job_file.parent / REPORT.format(rank=os.environ["RANK"])) as file:
            file.write(json.dumps(report).encode())
        if message is None:  # a lost connection, perhaps: the launcher is to see the death behind it before ours
            time.sleep(PATIENCE)
        _end(1)


def _end(code: int) -> NoReturn:
    """At once: on the way out the process could wait for the others, who wait for it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _end_with_the_launcher() -> None:
    """End this process when it is told to or when the launcher is gone, whatever the main thread waits for.

    Lightning's own way with SIGTERM asks the other ranks, which may be dead; and a thread inside a collective call hears of
    no signal. Python writes the numbers of arriving signals into a pipe at once, and a thread of ours reads them there.
    """
    parent = os.getppid()
    arrived, arriving = os.pipe()
    os.set_blocking(arriving, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # nothing is written for a signal without a handler
    signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget_the_pipe)

    def watch() -> None:
        deadline = math.inf
        while os.getppid() == parent and time.monotonic() < deadline:
            ready, _, _ = select.select([arrived], [], [], 0.2)
            numbers = os.read(arrived, 64) if ready else b""
            if signal.SIGTERM in numbers:
                break
            if signal.SIGINT in numbers:
                deadline = time.monotonic() + GRACE
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _forget_the_pipe() -> None:
    with contextlib.suppress(ValueError):  # forked by a thread: then it gets no signals either
        signal.set_wakeup_fd(-1)
