"""Reports in the formats that public systems write, as rows of cells; which format it is, the content tells."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hardneg_plugin.data.downloads.tables import column_name, read_table
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import json_kind

ID, TEXT = "id", "text"
"""The names of the two cells of a file that has texts by id."""
_DELIMITERS = "\t,;|"


class TextRow(NamedTuple):
    """What a file says of one study."""

    place: str
    """In the file, such as "line 3"."""
    cells: Mapping[str, Any]
    """By `column_name`."""


class TextRows(NamedTuple):
    """The rows of a file."""

    kind: str
    """Its format in words, such as "JSON of texts by id"."""
    rows: Sequence[TextRow]


def parse_rows(text: str, file: Path) -> TextRows:
    """The rows of a text.

    It is JSON, one JSON object per line, or a table with its columns' names in the first row and a tab, comma, semicolon or bar
    between cells. JSON may be a list of records; records or texts by id (`{"id": ["text"]}`); a list of texts, whose ids are then
    their numbers; COCO's `{"annotations": [...]}`, whose ids are those of the images; or R2Gen's lists of train, val and test.

    Args:
        text: what the file holds.
        file: for messages.

    Raises:
        UserError: it is empty or none of these, with the line; or an id is there twice.

    >>> parse_rows('{"a": ["no effusion ."]}', Path("theirs.json"))
    TextRows(kind='JSON of texts by id', rows=[TextRow(place='a', cells={'id': 'a', 'text': 'no effusion .'})])
    """
    begin = text.lstrip()
    if not begin:
        raise UserError(f"Expected at least one study in {file}, but it is empty.")
    if begin[0] not in "{[":
        return TextRows("table", list(_table(text, file)))
    if first_of_lines(text) is not None:
        lines = ((f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        return TextRows("JSONL", [_record(_json(line, f"{file}, {place}"), place, file) for place, line in lines])
    return _document(_json(text, str(file)), file)


def first_of_lines(text: str) -> dict[str, Any] | None:
    """The object in the first line of JSON lines; None for any other text.

    A single line is one if it is a record, not texts or records by id.
    """
    first, *others = (line for line in text.split("\n") if line.strip())
    try:
        value = json.loads(first)
    except ValueError:
        return None
    return value if isinstance(value, dict) and (others or isinstance(value.get(ID), str)) else None


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: expected JSON, but line {error.lineno}, column {error.colno}: {error.msg}. Make the file again."
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{place}: expected JSON, but {error}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return value


def _document(value: Any, file: Path) -> TextRows:
    if isinstance(value, dict):
        annotations = value.get("annotations")
        if isinstance(annotations, list):
            return TextRows("COCO annotations", [_of_image(*entry, file) for entry in _entries(annotations)])
        if value and value.keys() <= set(SPLITS) and all(isinstance(part, list) for part in value.values()):
            entries = [(f"{name}[{i}]", entry) for name, part in value.items() for i, entry in enumerate(part)]
            return TextRows("R2Gen annotation", [_record(entry, place, file) for place, entry in entries])
        if value and all(isinstance(entry, dict) for entry in value.values()):
            rows = [_record({**_named(entry), ID: name}, name, file) for name, entry in value.items()]
            return TextRows("JSON of records by id", rows)
        rows = [TextRow(name, {ID: name, TEXT: only_text(text)}) for name, text in value.items()]
        return TextRows("JSON of texts by id", rows)
    if isinstance(value, list):
        if value and all(isinstance(entry, str) for entry in value):
            return TextRows("JSON of texts", [TextRow(place, {TEXT: text}) for place, text in _entries(value)])
        rows = [_record(entry, place, file) for place, entry in _entries(value)]
        is_coco = bool(rows) and rows[0].cells.keys() >= {"image_id", "caption"}
        return TextRows("COCO results" if is_coco else "JSON of records", rows)
    raise UserError(f"{file}: expected an object or a list, but got {json_kind(value)}.")


def only_text(value: Any) -> Any:
    """The text of a list of one; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _entries(values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"entry {number}", value) for number, value in enumerate(values, 1))


def _record(value: Any, place: str, file: Path) -> TextRow:
    if not isinstance(value, dict):
        raise UserError(f"{file}, {place}: expected an object, but got {json_kind(value)}.")
    return TextRow(place, {name: only_text(cell) for name, cell in _named(value).items()})


def _named(value: Mapping[str, Any]) -> dict[str, Any]:
    return {column_name(name): cell for name, cell in value.items()}


def _of_image(place: str, value: Any, file: Path) -> TextRow:
    """An annotation of COCO's: its own "id" is that of the caption."""
    row = _record(value, place, file)
    if not row.cells.keys() >= {"image_id", "caption"}:
        raise UserError(f'{file}, {place}: expected "image_id" and "caption", but got {sorted(row.cells)}.')
    return TextRow(place, {ID: row.cells["image_id"], TEXT: row.cells["caption"]})


def _table(text: str, file: Path) -> Iterator[TextRow]:
    first = next(line for line in text.splitlines() if line.strip())
    unquoted = "".join(first.split('"')[::2])
    delimiter = max(_DELIMITERS, key=unquoted.count)
    if delimiter not in unquoted:
        raise UserError(
            f"Expected JSON, or a table with the names of its columns in the first row, in {file}, but it begins {first[:60]!r}."
        )
    for line, cells in read_table(file, delimiter=delimiter, lines=io.StringIO(text, newline="")):
        yield TextRow(f"line {line}", cells)
