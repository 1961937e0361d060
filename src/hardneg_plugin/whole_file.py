"""Files that stand under their name only once everything is in them, and what a user is told where that fails."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hardneg_plugin.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a whole file: beside its place, on to the disk, and then under its name. What was there before stays until then.

    Raises:
        OSError: it cannot be written, such as for a full disk; nothing half-written is left.
    """
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Around writing a file or folder.

    Args:
        path: what is written, for the error.
        remedy: a sentence that says what to do.

    Raises:
        UserError: for an OSError, such as of a full disk, in place of it.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). {remedy}") from error


def check_place(path: Path, key: str) -> None:
    """See before long work that a file can be written there; folders above it are made.

    Args:
        path: where the file is to stand; it may be there already.
        key: of the config, for the error.

    Raises:
        UserError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: {path.parent} cannot be made a folder ({error.strerror}). Name another.") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"{path.parent} is not writable"
        raise UserError(f"{key}: expected a file to write, but got {path}: {reason}. Name another.")
