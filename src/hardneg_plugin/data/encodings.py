"""Text files of unknown encoding."""

import codecs
from pathlib import Path
from typing import NamedTuple

from hardneg_plugin.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD = 4096
"""Bytes that are looked at for UTF-16 without a mark."""


class DecodedText(NamedTuple):
    """The text of a file and how it was decoded."""

    text: str
    encoding: str
    """Python's name of it, such as "utf-8"."""


def read_text(file: Path, what: str) -> DecodedText:
    """The text of a file in UTF-8, UTF-16, UTF-32, or else Windows-1252 or Latin-1.

    A byte order mark decides; without one, NUL bytes mean UTF-16. What is not UTF-8 then is Windows-1252, or Latin-1 if it has
    bytes that Windows-1252 does not know. Line ends stay as they are.

    Args:
        file: the file.
        what: what it holds, such as "predictions", for the message.

    Raises:
        UserError: the file cannot be read, or holds no text.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"Expected the {what} file {file}, but it cannot be read ({error.strerror}).") from error
    marked = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    candidates = [marked] if marked else [_utf16(content)] if b"\0" in content else ["utf-8", "cp1252", "latin-1"]
    for encoding in candidates:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            reason = f"byte {error.start} does not fit {encoding}"
            continue
        if "\0" not in text:
            return DecodedText(text, encoding.removesuffix("-sig"))
        reason = "it has NUL characters"
    raise UserError(f"Expected a text file of {what}, but {file} is none ({reason}). Save it as UTF-8.")


def _utf16(content: bytes) -> str:
    """UTF-16 by where the NULs are: ASCII has them in the second byte of each pair if the low byte comes first."""
    head = content[:_HEAD]
    return "utf-16-le" if head[1::2].count(0) >= head[0::2].count(0) else "utf-16-be"
