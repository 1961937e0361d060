"""Reading and writing files: written whole or not at all, with an error that says what to do."""

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from hardneg_plugin.errors import UserError

FAILURES = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS}
FAILURES |= {getattr(errno, name) for name in ("EDQUOT", "ESTALE") if hasattr(errno, name)}  # not on Windows
"""What can happen to a disk while a file is written."""


def open_no_link(path: str | Path, flags: int) -> int:
    """An `opener` of `open` for which a symbolic link is an error; the permissions of a new file follow the umask.

    Args:
        path: the file.
        flags: of `os.open`.
    """
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags | more, 0o666)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written as a whole: it replaces an earlier one only once all of it is on the disk.

    Until then it has a name that nobody can guess, so that no link can wait there. A link at `path` is replaced, not followed.
    Permissions follow the umask.

    Raises:
        OSError: it cannot be written; that of a full disk names `path`, and nothing half-written is left.
    """
    unfinished = path.parent / f"{unfinished_prefix(path)}{secrets.token_hex(8)}"
    descriptor = open_no_link(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(unfinished)
        if (failed := failed_write(error)) is not None:  # torch.save raises a RuntimeError after it
            raise OSError(failed.errno, failed.strerror, str(path)) from error
        raise


@contextmanager
def whole_folder(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """A folder to be filled as a whole: it gets its name only once the block has ended and all of it is on the disk.

    Args:
        path: the folder; folders above it are made.
        replaces: whether one that is there is replaced. False: it must be empty or absent.

    Yields:
        An empty folder beside it, to write into.

    Raises:
        OSError: it cannot be written, or is not empty; nothing half-written is left, and what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f"{unfinished_prefix(path)}{secrets.token_hex(8)}"
    replaced = unfinished.with_name(f"{unfinished.name}.replaced")
    unfinished.mkdir()
    try:
        yield unfinished
        for file in (file for file in unfinished.rglob("*") if file.is_file()):
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        if replaces and path.exists():
            os.rename(path, replaced)
        os.rename(unfinished, path)
    except BaseException:
        if replaced.exists() and not path.exists():
            os.rename(replaced, path)
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def unfinished_prefix(path: Path) -> str:
    """How the name of what is unfinished begins; 48 characters of the name keep it below the limit of file systems.

    >>> unfinished_prefix(Path("run/last.ckpt"))
    '.last.ckpt.'
    """
    return f".{path.name[:48]}."


@contextmanager
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """As `whole_file`, for text in UTF-8; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        yield text
        text.detach()  # which flushes


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write one JSON document.

    Args:
        path: the file; folders above it are made.
        content: plain values.
        indent: spaces; None puts all in one line.

    Raises:
        UserError: it holds a number that is not finite; nothing is written.
    """
    with whole_text_file(path) as file:
        separators = (",", ":") if indent is None else None
        with _finite(path, content):
            json.dump(content, file, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write one JSON document per line.

    Args:
        path: the file; folders above it are made.
        records: plain values.

    Raises:
        UserError: one holds a number that is not finite; nothing is written.
    """
    with whole_text_file(path) as file:
        for record in records:
            with _finite(path, record):
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _finite(path: Path, content: Any) -> Iterator[None]:
    """Name the number that JSON cannot hold, where there is one."""
    try:
        yield
    except ValueError as error:
        if (found := next(_not_finite(content), None)) is None:
            raise
        raise UserError(f"{path}: cannot be written, since {found} and JSON has no such number.") from error


def _not_finite(content: Any, key: str = "") -> Iterator[str]:
    if isinstance(content, float) and not math.isfinite(content):
        yield f"{key or 'it'} is {content}"
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _not_finite(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from _not_finite(value, f"{key}[{place}]")


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Turn an OSError while writing into a UserError.

    Args:
        path: the file or folder that is written, for the message.
        remedy: a sentence that says what to do.

    Raises:
        UserError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({why_not_written(error, path)}). {remedy}") from error


def failed_write(error: BaseException | None) -> OSError | None:
    """The failure of a disk that an error came from; None if there is none.

    >>> full = RuntimeError("unexpected position")
    >>> full.__context__ = OSError(errno.ENOSPC, "No space left on device")
    >>> failed_write(full)
    OSError(28, 'No space left on device')
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in FAILURES:
            return error
        error = error.__cause__ or error.__context__
    return None


def why_not_written(error: OSError, path: Path) -> str:
    """The reason in words, with the free space where the disk failed.

    Args:
        error: of writing.
        path: the file or folder, which need not exist.
    """
    reason = str(error.strerror or error)
    if error.errno not in FAILURES:
        return reason
    there = next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), Path.cwd())
    with suppress(OSError):
        reason += f", {shutil.disk_usage(there).free / 1e6:,.1f} MB free"
    return reason


def check_place(path: Path, key: str) -> None:
    """Check before long work that a file can be written; folders above it are made.

    Args:
        path: the file; it may exist already.
        key: the config key that names it, for the message.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: the folder {path.parent} cannot be made ({error.strerror}). Name another.") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"{path.parent} is not writable"
        raise UserError(f"{key}: expected a file to write, but got {path}: {reason}. Name another.")


def read_json(file: Path, what: str) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Args:
        file: the file.
        what: what it holds, such as "annotation", for the message.

    Raises:
        UserError: the file cannot be read, or is not UTF-8 or not JSON; the message says where.
    """
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"Expected the {what} file {file}, but it cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"Expected {file} in UTF-8, but byte {error.start} is {error.object[error.start]:#04x}. Save it as UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"Expected JSON in {file}, but line {error.lineno}, column {error.colno}: {error.msg}. Make the file again."
        ) from error
    except (RecursionError, ValueError) as error:  # thousands of brackets within one another, or of digits
        raise UserError(
            f"Expected JSON in {file}, but it is nested too deeply or holds too long a number ({error})."
        ) from error


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: JSON can spell half of a surrogate pair, which UTF-8 cannot."""
    return re.search(r"[\ud800-\udfff]", text) is None


def json_kind(value: Any) -> str:
    """A value's JSON type in words, such as "an object"; True and False as they are."""
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), repr(value))
