"""Tables: rows by column name and line, or what is wrong with the file and where."""

import csv
import difflib
import json
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import json_kind

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""What `read_rows` reads."""
MAX_LINE = 16 * 2**20
"""Bytes of the longest line; a file with a longer one is not a table."""


def read_lines(file: Path, *, longest: int | None = MAX_LINE) -> Iterator[str]:
    """The lines of a text in UTF-8, with or without a byte order mark, each with its line end.

    Args:
        file: the file.
        longest: bytes of the longest line; None: any.

    Raises:
        UserError: the file cannot be read, is not UTF-8, has a NUL, or a line of more than `longest` bytes; with the line.
    """
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(-1 if longest is None else longest + 1):
                number += 1
                if longest is not None and len(line) > longest:
                    raise UserError(f"Expected a table in {file}, but line {number} is longer than {longest} bytes.")
                yield _decode(line, file, number)
    except OSError as error:
        raise UserError(f"Expected the table {file}, but it cannot be read ({error.strerror}).") from error


def _decode(line: bytes, file: Path, number: int) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Expected {file} in UTF-8, but line {number} has the byte {error.object[error.start]:#04x}. Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"Expected a text in UTF-8 in {file}, but line {number} has a NUL. Save it as UTF-8.")
    return text


def read_table(
    file: Path, *, delimiter: str = ",", lines: Iterable[str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV, each with the line on which it begins and its cells by `column_name`.

    Blank rows are skipped, as are columns without a name, such as the row numbers that some programs add.

    Args:
        file: the file.
        delimiter: between cells.
        lines: of the file, each with its line end; None: `read_lines`.

    Raises:
        UserError: as `read_lines`; the header is missing or repeats a name, a row has more or fewer cells than the header, a
            quoted cell is not closed, or a cell is longer than Python's limit (`csv.field_size_limit`).
    """
    rows = _read_rows(read_lines(file) if lines is None else lines, file, delimiter)
    _, header = next(rows, (0, []))
    names = [column_name(name) for name in header]
    if not any(names):
        raise UserError(f"Expected the names of the columns in the first row of {file}, but it has none.")
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"Expected distinct names of the columns of {file}, but got {twice} twice. Rename one.")
    for line, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"Expected {len(names)} cells in each row of {file}, as in the first, but the row of line {line} has "
                f"{len(cells)}. Cells with a {delimiter!r} or a line break need quotes."
            )
        yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name}


def _read_rows(lines: Iterable[str], file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"Expected a table in {file}, but the row of line {line} cannot be read ({error}). Is a quote left open?"
            ) from error
        if cells is None:
            return
        if cells:
            yield line, cells


def column_name(name: str) -> str:
    """A column's name for comparison: in lower case, "_" for blanks and hyphens."""
    return "_".join(name.strip().lower().replace("-", " ").split())


def read_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a CSV, TSV, JSONL or JSON file (`TABLE_SUFFIXES`), each with its place, such as "line 3".

    Of a CSV a row is its cells by `column_name`. Of the others it is a JSON value, of which objects have such keys too.

    Raises:
        UserError: as `read_table`; a line, or the file, is not JSON, or the file is not a list.
    """
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        for number, cells in read_table(file, delimiter="\t" if suffix == ".tsv" else ","):
            yield f"line {number}", cells
    elif suffix == ".json":
        entries = _parse("".join(read_lines(file, longest=None)), str(file), "the file")
        if not isinstance(entries, list):
            raise UserError(f"Expected a list of objects in {file}, but got {json_kind(entries)}.")
        yield from ((f"entry {index}", entry) for index, entry in enumerate(entries))
    else:
        for number, text in enumerate(read_lines(file), 1):
            if text.strip():
                yield f"line {number}", _parse(text, f"{file}, line {number}", "the line")


def _parse(text: str, place: str, what: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{place}: expected {what} to be JSON, but {error}.") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text, keys of objects by `column_name`; a ValueError where it has none."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:  # thousands of brackets within one another
        raise ValueError(str(error)) from error


_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PYTHON_LIST = re.compile(rf"\[\s*(?:(?:{_QUOTED}|nan|None)(?:\s*,\s*|\s+|(?=\])))*\]", re.DOTALL)


def parse_list(text: str) -> Any:
    """The value of a JSON text, or a list of texts as Python or NumPy prints it; a ValueError where it is neither.

    >>> parse_list('["a", "b"]'), parse_list("['a', 'b', nan]"), parse_list("['a' 'b']")
    (['a', 'b'], ['a', 'b'], ['a', 'b'])
    """
    try:
        return parse_json(text)
    except ValueError:
        if not _PYTHON_LIST.fullmatch(text.strip()):
            raise
    return [re.sub(r"\\(.)", r"\1", part[1:-1]) for part in re.findall(_QUOTED, text)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = {column_name(name): value for name, value in pairs}
    if len(cells) < len(pairs):
        raise ValueError(f"expected each name once, but got {reprlib.repr([name for name, _ in pairs])}")
    return cells


def check_columns(file: Path, names: Collection[str], needed: Iterable[str]) -> None:
    """Check that a table has some columns.

    Args:
        file: the table, for the error.
        names: of its columns.
        needed: names that must be among them.

    Raises:
        UserError: one is missing; with the columns of the table, and the one that is most similar.
    """
    for name in needed:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UserError(
                f'Expected a column "{name}" in {file}, but its columns are {sorted(names)}.'
                + (f' Rename "{near[0]}"?' if near else "")
            )
