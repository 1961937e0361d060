"""What is printed: text as it is, but for characters that a terminal would obey or a reader would not see.

A report, an id, a path or a name in a config may hold an escape sequence that moves the cursor, or a mark that turns the order of
letters. Files keep such texts as they are; everything that commands print goes through here.
"""

import logging
import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TextIO

_HARMLESS = "\n\t\u00ad\u200c\u200d"
"""Of the kinds below: what ends lines, sets tabs, hyphenates, and shapes letters."""
_KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control, format, half of a surrogate pair, and separators of lines and paragraphs."""


def printable(text: str) -> str:
    """A text with what a terminal would obey written out.

    >>> print(printable("a\\x1b[2J report\\u202e.\\r"))
    a\\x1b[2J report\\u202e.\\r
    """
    if text.isprintable():
        return text
    return "".join(
        char if char in _HARMLESS or unicodedata.category(char) not in _KINDS else ascii(char)[1:-1] for char in text
    )


def say(*texts: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print texts that are `printable`.

    Args:
        texts: as of `print`.
        sep, end, flush: as of `print`.
        file: None: standard output.
    """
    print(*(printable(str(text)) for text in texts), sep=sep, end=end, file=file, flush=flush)


def print_plainly() -> None:
    """From now on messages of loggers and errors with their traceback are `printable`, too."""
    logging.setLogRecordFactory(_PrintableRecord)
    sys.excepthook = show_error


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


def show_error(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    """Print an error with its traceback.

    Args:
        kind, error, where: as of `sys.excepthook`.
    """
    say("".join(traceback.format_exception(kind, error, where)), end="", file=sys.stderr, flush=True)
