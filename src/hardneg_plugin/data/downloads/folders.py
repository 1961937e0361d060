"""Files inside a folder: paths and links that leave it are refused, not read."""

import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from hardneg_plugin.errors import UserError


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files of a folder and its subfolders: path relative to it (with "/"), and path.

    Sorted by name, folder by folder. Hidden names are skipped, such as the "._" files that some systems add. Links to
    folders inside are not followed: their files are read where they are.

    Raises:
        UserError: the folder cannot be read, a link leaves it or is broken, or an entry is a pipe or a device.
    """
    yield from _walk(folder, "", os.path.realpath(folder))


def _walk(folder: Path, prefix: str, home: str) -> Iterator[tuple[str, Path]]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"Expected a folder at {folder}, but it cannot be read ({error.strerror}).") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        if entry.is_symlink():
            _refuse_link_out(path, home)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, f"{prefix}{entry.name}/", home)
        elif entry.is_file():
            yield f"{prefix}{entry.name}", path
        elif not entry.is_dir():
            raise UserError(f"Expected files and folders in {folder}, but {entry.name} is neither. Remove it.")


def path_within(folder: Path, name: str) -> Path:
    """A file of a folder by its relative path; it need not exist.

    Args:
        folder: the folder.
        name: path relative to it.

    Raises:
        UserError: the path is empty or absolute, goes up (".."), or is a link out of the folder.
    """
    if leaves(name):
        raise UserError(f"Expected paths inside {folder}, but got {name!r}. Write it relative to that folder.")
    path = folder / name
    if os.path.lexists(path):
        _refuse_link_out(path, os.path.realpath(folder))
    return path


def leaves(name: str) -> bool:
    """Whether a path is not a relative one that stays inside its folder, by the rules of any system; so is one with a NUL."""
    path = PureWindowsPath(name)  # takes "/" and "\" for separators, and knows drives
    return not path.parts or bool(path.drive or path.root) or ".." in path.parts or "\0" in name


def _refuse_link_out(path: Path, home: str) -> None:
    real = os.path.realpath(path)
    if real != home and not real.startswith(home.rstrip(os.sep) + os.sep):
        raise UserError(
            f"Expected files inside {home}, but {path} links to {real}, outside. Put the file itself there."
        )
