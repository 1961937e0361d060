"""Files as the project reads and writes them: whole or not at all, and a clear error where that fails."""

import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

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
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """Write a whole text file: it stands under its name only once everything is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        yield text
        text.flush()
        text.detach()


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write one JSON document.

    Args:
        path: the file; folders above it are made.
        content: plain values; NaN is refused.
        indent: spaces; None puts all in one line.
    """
    with whole_text_file(path) as file:
        separators = (",", ":") if indent is None else None
        json.dump(content, file, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """One JSON document per line."""
    with whole_text_file(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


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


def read_json(file: Path, what: str) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Args:
        file: the file.
        what: what it holds, such as "annotation", for the error where there is no such file.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or not JSON; with the place.
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
        raise UserError(f"Expected JSON in {file}, but it is beyond what can be read ({error}).") from error


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: JSON can spell half of a surrogate pair, which no file and no hash takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_kind(value: Any) -> str:
    """A value's JSON type in words: "an object", "a list"; true and false by their name."""
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), repr(value))
