"""One rank of a job that a command started: it does the job and reports errors to the launcher."""

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
from hardneg_plugin.apps.shared.ranks import Job
from hardneg_plugin.files import whole_file

REPORT = "rank_{rank}.json"
GRACE = 10.0
"""Seconds that an interrupted rank has to close its loggers; it may be waiting for a dead rank."""
PATIENCE = 1.0
"""Seconds that a failed rank waits before it ends: a killed rank closes its connections before the launcher sees it dead, and the
launcher is to see that death first."""


def main() -> None:
    """Entry point of a rank. Its argument is the file of the job; it writes its report of an error beside it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_the_launcher()
    job_file = Path(sys.argv[1])
    job = Job.read(job_file)
    hush_libraries()
    logging.config.dictConfig(job.logging)
    if "OMP_NUM_THREADS" not in os.environ:  # the ranks share the cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    try:
        # by name: the commands import this folder
        pkgutil.resolve_name(f"hardneg_plugin.apps.{job.command}:{job.command}")(job)
    except KeyboardInterrupt:
        _end(1)
    except SystemExit as stop:  # by `agreed`: rank 0 reports it
        _end(stop.code if isinstance(stop.code, int) else 1)
    except BaseException as error:
        message = explain(error, job.command) if isinstance(error, Exception) else None
        text = message or traceback.format_exc()
        report = {"time": time.time(), "explained": message is not None, "text": text}
        # atomic: the launcher may end this rank while it writes
        with whole_file(job_file.parent / REPORT.format(rank=os.environ["RANK"])) as file:
            file.write(json.dumps(report).encode())
        if message is None:  # perhaps of a connection to a dead rank
            time.sleep(PATIENCE)
        _end(1)


def _end(code: int) -> NoReturn:
    """End at once: clean-up could wait for ranks that wait for this one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _end_with_the_launcher() -> None:
    """End this process on SIGTERM or when the launcher is gone, whatever the main thread waits for.

    Lightning's SIGTERM handler asks the other ranks, which may be dead, and Python runs no handler while the main thread is
    inside a collective call. Python does write the numbers of arriving signals into a pipe, which a thread reads here.
    """
    parent = os.getppid()
    arrived, arriving = os.pipe()
    os.set_blocking(arriving, False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # only signals with a handler are written
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
    with contextlib.suppress(ValueError):  # forked by another thread: it gets no signals
        signal.set_wakeup_fd(-1)
