"""One line for what happens to a command from outside: a full disk, a folder that is gone, a killed worker, too little memory."""

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hardneg_plugin.errors import first_line
from hardneg_plugin.files import failed_write, why_not_written

WORKER_ENDED = re.compile(r"worker.* (?:is killed by signal: (\w+)|exited)")
TOO_MANY_FILES = re.compile("Too many open files|received 0 items of ancdata")


def explain_surroundings(error: BaseException, folder: Path) -> str | None:
    """What happened, and what to do; None for any other error.

    Args:
        error: with the chain of its causes.
        folder: that the command writes into, for errors that name no file.
    """
    if (failed := failed_write(error)) is not None:
        path = Path(failed.filename or _full_output() or folder)
        remedy = "Make room." if failed.errno != errno.EROFS else "Name another place."
        return f"{path}: cannot be written ({why_not_written(failed, path)}). {remedy}"
    for cause in chain(error):
        kind, line = type(cause).__name__, first_line(cause)
        if isinstance(cause, FileNotFoundError) and is_below(cause.filename, folder):
            return f"{cause.filename}: its folder is gone: something removed it while this command wrote into it."
        if isinstance(cause, RuntimeError) and TOO_MANY_FILES.search(line):
            return "Too many open files: raise the limit by ulimit -n, or set fewer data.datamodule.num_workers, or 0."
        ended = WORKER_ENDED.search(line) if isinstance(cause, RuntimeError) else None
        if ended or _passed_through(cause, "multiprocessing.resource_sharer"):
            how = f" by the signal {ended[1]}" if ended and ended[1] else ""
            return (
                f"A worker process that loads studies was ended{how}, most likely for lack of memory or of space in /dev/shm: "
                "set fewer data.datamodule.num_workers, or 0."
            )
        if kind == "OutOfMemoryError":  # of torch, which is not imported for this
            return f"{line}. Lower data.batch_size, or raise model.chunks."
        if kind == "MisconfigurationException":  # of Lightning
            return f"trainer: {line}."
    return None


def _passed_through(error: BaseException, module: str) -> bool:
    """Whether an error was raised in a module or in what it called.

    Tensors of a loader's worker are fetched through `multiprocessing.resource_sharer`: if the worker dies meanwhile, this is an
    `EOFError` or any `OSError`, and the loader may not have noticed yet.
    """
    return any(frame.f_globals.get("__name__") == module for frame, _ in traceback.walk_tb(error.__traceback__))


def _full_output() -> str | None:
    """The file that the output goes into, as by `> train.log`, where its disk is full."""
    for descriptor in (1, 2):
        with suppress(OSError, AttributeError):  # closed, or on Windows
            disk, file = os.fstatvfs(descriptor), os.path.realpath(f"/proc/self/fd/{descriptor}")
            if os.path.isfile(file) and disk.f_bavail * disk.f_frsize < 2**20:
                return file
    return None


def is_below(file: object, folder: Path) -> bool:
    """Whether a file that an error names is in a folder or below it.

    Args:
        file: a path, or None.
        folder: which need not exist.

    >>> is_below("run/logs/csv/metrics.csv", Path("run")), is_below("studies/1.png", Path("run")), is_below(None, Path("run"))
    (True, False, False)
    """
    return isinstance(file, str) and folder.absolute() in Path(file).absolute().parents


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
