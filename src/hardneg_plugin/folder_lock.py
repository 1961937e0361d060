"""A folder that one command at a time works on."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import open_no_link, writing


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
