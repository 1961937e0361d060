"""Studies of one's own as a list: a CSV, TSV, JSONL or JSON file of ids, images and reports."""

import difflib
import json
import logging
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from hardneg_plugin.data.downloads.folders import path_within
from hardneg_plugin.data.downloads.study import Dropped, OriginalStudy, label_text
from hardneg_plugin.data.downloads.tables import column_name, read_lines, read_table
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode, json_kind

_log = logging.getLogger(__name__)

_COLUMNS = {
    "id": ("id", "study_id", "study", "uid", "exam_id", "accession_number"),
    "images": (
        *("images", "image", "image_paths", "image_path", "image_files", "image_file", "image_names", "image_name"),
        *("paths", "path", "filenames", "filename", "file_names", "file_name", "files", "file"),
    ),
    "report": ("report", "reports", "report_text", "text", "caption"),
    "findings": ("findings", "finding"),
    "impression": ("impression", "impressions", "conclusion"),
    "patient": ("patient", "patient_id", "subject_id", "subject"),
    "labels": ("labels", "label"),
    "split": ("split", "subset", "partition"),
}
_TEXTS = ("report", "findings", "impression")
_SPLITS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NO_FINDING = ("normal", "no finding", "no findings")

_Cells = Mapping[str, Any]


class Listed:
    """Studies of a table, as `Originals`, in the order in which their ids first come.

    What is known of a study, and the names its column may have (capitals, blanks and hyphens do not matter; of several,
    the first of these is taken):

    - id: study_id, study, uid, exam_id, accession_number. A study may have several rows, one for each of its images.
    - images: image, image_path, path, filename, file and their plurals. In a cell of a CSV, several stand between "|" or
      ";", or as a JSON list. They are relative to the folder of images.
    - one or more of report (report_text, text, caption), findings, impression (conclusion).
    - patient, where known: patient_id, subject_id, subject.
    - labels, where known: label. Several as with images. "normal" or "no finding", or in JSON an empty list, are the set
      without findings; a blank cell is unknown.
    - split, where there is one: subset, partition. train(ing), val(id, idate, idation), dev, test(ing).

    Other columns are left out with a warning, but one that looks like a misspelt name is an error.

    Studies without an image are dropped, and so are images that are missing and, in a table with a split, studies of none.

    Args:
        table: .csv, .tsv, .jsonl (or .ndjson; an object per line) or .json (a list of objects, which is read whole).
        images: folder of the images. None: that of the table.

    Raises:
        UserError: the file is no such table; an id, a path or a split is none; rows of a study differ in more than their
            images; a path leaves the folder, itself or by a link. With the line.
    """

    def __init__(self, table: str | Path, images: str | Path | None = None) -> None:
        self._table = Path(table).absolute()
        self._folder = self._table.parent if images is None else Path(images).absolute()
        if self._table.suffix.lower() not in _READERS:
            raise UserError(f"Expected a table that ends in {', '.join(_READERS)}, but got {self._table}.")
        if not self._table.is_file():
            raise UserError(f"Expected the table {self._table}, but there is no such file.")
        if not self._folder.is_dir():
            raise UserError(f"Expected a folder of images at {self._folder}, but there is none. Set `images`.")
        # Read once here and once when asked for, so that no study need be held but for rows apart from others of theirs.
        ids: set[str] = set()
        self._apart: dict[str, list[_Row]] = {}
        self._has_split, here = False, None
        for row in self._rows(warn=True):
            if row.id != here and row.id in ids:
                self._apart.setdefault(row.id, []).append(row)
            else:
                here = row.id
                ids.add(row.id)
            self._has_split |= row.split is not None
        if not ids:
            raise UserError(f"Expected studies in {self._table}, but there is none.")
        self._count = len(ids)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[OriginalStudy | Dropped]:
        apart = {row.place for rows in self._apart.values() for row in rows}
        together = (row for row in self._rows() if row.place not in apart)
        for id_, rows in groupby(together, key=lambda row: row.id):
            yield from self._study([*rows, *self._apart.get(id_, ())])

    def _rows(self, *, warn: bool = False) -> Iterator["_Row"]:
        known: dict[tuple[str, ...], dict[str, str]] = {}  # of a CSV one, of JSON one per choice of keys
        for place, cells in _READERS[self._table.suffix.lower()](self._table):
            try:
                if not isinstance(cells, dict):
                    raise _Flaw(f"expected an object with id, images and report, but got {json_kind(cells)}")
                names = known.get(tuple(cells))
                if names is None:
                    names = known[tuple(cells)] = _names(cells)
                    if warn and (others := sorted(cells.keys() - set(names.values()))):
                        _log.warning("%s, %s: left out: %s.", self._table, place, others)
                yield _read_row(place, {key: cells[name] for key, name in names.items()})
            except _Flaw as flaw:
                raise UserError(f"{self._table}, {place}: {flaw}.") from flaw

    def _study(self, rows: Sequence["_Row"]) -> Iterator[OriginalStudy | Dropped]:
        id_ = rows[0].id
        split = self._only(rows, "split")
        if self._has_split and split is None:
            yield Dropped(id_, "no split")
            return
        images: list[Path] = []
        for name in dict.fromkeys(name for row in rows for name in row.images):
            try:
                path = path_within(self._folder, name)
            except UserError as error:
                raise UserError(f"{self._table}, study {id_!r}: {error}") from error
            if os.path.isfile(path):
                images.append(path)
            else:
                yield Dropped(id_, "image not found", name)
        if not images:
            yield Dropped(id_, "no image")
            return
        yield OriginalStudy(
            id=id_,
            images=tuple(images),
            findings=self._only(rows, "findings") or "",
            impression=self._only(rows, "impression") or "",
            report=self._only(rows, "report") or "",
            patient=self._only(rows, "patient"),
            labels=self._only(rows, "labels"),
            split=split,
        )

    def _only(self, rows: Sequence["_Row"], key: str) -> Any:
        """What the rows of a study say, which is the same in all that say something."""
        values = {getattr(row, key): row.place for row in reversed(rows) if getattr(row, key) is not None}
        if len(values) > 1:
            places = " and ".join(list(values.values())[::-1][:2])
            raise UserError(f"{self._table}, study {rows[0].id!r}: {places} differ in {key!r}. Give each study one.")
        return next(iter(values), None)


class _Row(NamedTuple):
    """A row, its cells read; None is for what is blank."""

    place: str
    id: str
    images: tuple[str, ...]
    report: str | None
    findings: str | None
    impression: str | None
    patient: str | None
    labels: str | None
    split: SplitName | None


class _Flaw(Exception):
    """What is wrong with one row."""


def _names(columns: _Cells) -> dict[str, str]:
    """From what is to be known of a study to the name that the file has for it, where it has one."""
    names = {
        key: next(name for name in candidates if name in columns)
        for key, candidates in _COLUMNS.items()
        if not columns.keys().isdisjoint(candidates)
    }
    for name in columns:
        if not any(name in candidates for candidates in _COLUMNS.values()) and (near := _nearest(name)):
            raise _Flaw(f'the column "{name}" is not known; rename it to "{near}" if that is meant, or remove it')
    lacking = [key for key in ("id", "images") if key not in names]
    if names.keys().isdisjoint(_TEXTS):
        lacking.append("report (or findings, impression)")
    if lacking:
        got = reprlib.repr(sorted(columns))
        raise _Flaw(f"expected columns id, images, report, but {' and '.join(lacking)} cannot be found among {got}")
    return names


def _nearest(name: str) -> str | None:
    known = [candidate for candidates in _COLUMNS.values() for candidate in candidates]
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), None)


def _read_row(place: str, cells: _Cells) -> _Row:
    id_ = _text(cells, "id", "a text or an integer")
    if id_ is None:
        raise _Flaw("expected an id, but it is blank")
    split = _text(cells, "split", "a text")
    if split is not None and split.lower() not in _SPLITS:
        raise _Flaw(f"expected the split to be one of {', '.join(_SPLITS)}, but got {reprlib.repr(split)}")
    labels = _several(cells, "labels")
    if labels is not None:
        labels = [name for name in labels if name.lower() not in _NO_FINDING]
    return _Row(
        place=place,
        id=id_,
        images=tuple(_several(cells, "images") or ()),
        report=_text(cells, "report", "a text"),
        findings=_text(cells, "findings", "a text"),
        impression=_text(cells, "impression", "a text"),
        patient=_text(cells, "patient", "a text or an integer"),
        labels=None if labels is None else label_text(labels),
        split=None if split is None else _SPLITS[split.lower()],
    )


def _text(cells: _Cells, key: str, expected: str) -> str | None:
    """A cell without white space at its ends; None where it is blank."""
    value = cells.get(key)
    if type(value) is int and key in ("id", "patient"):
        return str(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _Flaw(f'expected "{key}" to be {expected}, but got {json_kind(value)}')
    return _checked(value, key).strip() or None


def _several(cells: _Cells, key: str) -> list[str] | None:
    """The texts of a cell; None where it is blank."""
    value = cells.get(key)
    if isinstance(value, str):
        if not value.strip():
            return None
        value = _json(value, key) if value.lstrip().startswith("[") else re.split(r"[|;]", value)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise _Flaw(
            f'expected "{key}" to be a text, several between "|", or a list of texts, but got {json_kind(value)}'
        )
    return [part.strip() for part in value if _checked(part, key).strip()]


def _checked(text: str, key: str) -> str:
    """JSON can spell what no file takes."""
    if not is_unicode(text):
        raise _Flaw(f'expected "{key}" to be a text, but it has half of a character')
    if "\0" in text:
        raise _Flaw(f'expected "{key}" to be a text, but it has a NUL')
    return text


def _read_csv(file: Path) -> Iterator[tuple[str, Any]]:
    for line, cells in read_table(file, delimiter="\t" if file.suffix.lower() == ".tsv" else ","):
        yield f"line {line}", cells


def _read_jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    for line, text in enumerate(read_lines(file), 1):
        if text.strip():
            try:
                yield f"line {line}", _json(text, "the line")
            except _Flaw as flaw:
                raise UserError(f"{file}, line {line}: {flaw}.") from flaw


def _read_json(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        entries = _json("".join(read_lines(file, longest=None)), "the file")
    except _Flaw as flaw:
        raise UserError(f"{file}: {flaw}.") from flaw
    if not isinstance(entries, list):
        raise UserError(f"Expected a list of objects in {file}, but got {json_kind(entries)}.")
    for index, entry in enumerate(entries):
        yield f"entry {index}", entry


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, thousands of brackets
        raise _Flaw(f"expected {what} to be JSON, but {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """With the names as columns have them."""
    cells = {column_name(name): value for name, value in pairs}
    if len(cells) < len(pairs):
        raise _Flaw(f"expected each name once, but got {reprlib.repr([name for name, _ in pairs])}")
    return cells


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
}
