"""JSON that a user wrote or had written: its content, or what is wrong with the file."""

import json
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError


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
