"""A folder that one command at a time works on."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import open_no_link, writing

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system says that has no locks, as some network file systems."""
_not_for_children: set[int] = set()


class FolderInUseError(UserError):
    """Another process works on a folder."""


@contextmanager
def hold_file(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock on a file, made if need be and removed at the end; a crash releases it.

    Processes that are forked meanwhile do not hold it, so that a worker that outlives a killed training is not in the way.

    Args:
        path: of the file, in a folder that exists or can be made.
        busy: the message where another process holds it.

    Raises:
        FolderInUseError: another process holds it.
        OSError: it cannot be made.
    """
    while (descriptor := _lock_file(path, busy)) is None:
        pass
    _not_for_children.add(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):  # before it is released: nobody else holds it
            path.unlink()
        _not_for_children.discard(descriptor)
        os.close(descriptor)


def _lock_file(path: Path, busy: str) -> int | None:
    """The descriptor; None where another process has removed the file or its folder meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError), ExitStack() as on_failure:
        descriptor = open_no_link(path, os.O_RDWR | os.O_CREAT)
        on_failure.callback(os.close, descriptor)
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise FolderInUseError(busy)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warnings.warn(f"{path.parent} cannot be locked: nothing keeps a second process away from it.", stacklevel=2)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            on_failure.pop_all()
            return descriptor
    return None


def _let_go() -> None:
    for descriptor in _not_for_children:
        with suppress(OSError):
            os.close(descriptor)
    _not_for_children.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold_folder(folder: Path, *, command: str, busy: str, remedy: str) -> Iterator[int]:
    """Make a folder if need be and hold it, by a lock on the file `lock` in it.

    `filelock.FileLock` does not fit: its release also unlocks for a process that has inherited the lock.

    Args:
        folder: missing, empty, or held before.
        command: that owns such folders, for the errors.
        busy: who may hold it, such as "another hardneg-prepare", for the error.
        remedy: a sentence that says how to choose another folder.

    Yields:
        The descriptor of the lock. On POSIX a process that inherits it (`pass_fds`) holds the folder too, until it ends.

    Raises:
        UserError: the folder is held, is neither empty nor of this command, or cannot be made.
    """
    with writing(folder, remedy):
        while (descriptor := _try_to_lock(folder, command, busy, remedy)) is None:
            pass
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_to_lock(folder: Path, command: str, busy: str, remedy: str) -> int | None:
    """The descriptor; None where another command has removed the folder meanwhile."""
    lock = folder / "lock"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError), ExitStack() as on_failure:
        if not lock.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is not a folder of {command}; it is left as it is. {remedy}")
        descriptor = open_no_link(lock, os.O_RDWR | os.O_CREAT)
        on_failure.callback(os.close, descriptor)
        if not lock_descriptor(descriptor, blocking=False):
            raise UserError(
                f"{folder}: {busy} is at work on this folder. Wait for it, or {remedy[0].lower()}{remedy[1:]}"
            )
        if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            on_failure.pop_all()
            return descriptor
    return None
