"""Studies as a list: a CSV, TSV, JSONL or JSON file of ids, images and reports."""

import logging
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from hardneg_plugin.data.downloads.folders import path_within
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy, label_text
from hardneg_plugin.data.downloads.tables import TABLE_SUFFIXES, column_name, parse_list, read_rows
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.data.texts import is_missing, visible_text
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode, json_kind

_log = logging.getLogger(__name__)

_COMMON_NAMES = {
    "id": ("id", "study_id", "studyid"),
    "images": ("images", "image", "image_path", "imageid"),
    "report": ("report", "text"),
    "findings": ("findings",),
    "impression": ("impression",),
    "patient": ("patient", "patient_id", "subject_id", "patientid"),
    "labels": ("labels",),
    "split": ("split",),
}
_TEXTS = ("findings", "impression", "report")
_SPLITS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NO_FINDING = ("normal", "no finding", "no findings")

_Cells = Mapping[str, Any]


class ListedStudies:
    """Studies of a table, as `Originals`, in the order in which their ids first appear.

    Columns by their common names (case, blanks and hyphens do not matter; of several, the first listed is read):

    - id, study_id, StudyID. A study may have several rows, one for each of its images.
    - images, image, image_path, ImageID: relative to the folder of images; several are separated by "|" or ";", or a list as
      JSON or Python writes it (PadChest's `['a', 'b']`).
    - one or more of report or text, findings, impression.
    - optional: patient, patient_id, subject_id, PatientID.
    - optional: labels, several as with images. "normal" or "no finding", or in JSON an empty list, are the set without
      findings; a blank cell is unknown.
    - a cell that stands for none ("nan", a NaN of JSON: `is_missing`) is blank.
    - optional: split: train(ing), val(id, idate, idation), dev, test(ing).

    Other columns are left out with a warning. Studies without an image are dropped, as are images that are missing and, in
    a table with a split, studies without one.

    Args:
        table: .csv, .tsv, .jsonl (or .ndjson; an object per line) or .json (a list of objects, which is read whole).
        images: folder of the images. None: the table's folder.
        columns: the table's name for any of id, images, report, findings, impression, patient, labels and split, where it
            is not a common one. None as a name: a common one.

    Raises:
        UserError: the file is not such a table; a column is missing; an id, a path or a split is invalid; rows of a study
            differ in more than their images; a path or link leaves the folder. With the line.
    """

    def __init__(
        self,
        table: str | Path,
        images: str | Path | None = None,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        self._table = Path(table).absolute()
        self._folder = self._table.parent if images is None else Path(images).absolute()
        self._columns = {key: column_name(str(name)) for key, name in (columns or {}).items() if name is not None}
        if unknown := sorted(self._columns.keys() - _COMMON_NAMES.keys()):
            raise UserError(f"source.columns: expected keys among {', '.join(_COMMON_NAMES)}, but got {unknown}.")
        if self._table.suffix.lower() not in TABLE_SUFFIXES:
            raise UserError(f"Expected a table that ends in {', '.join(TABLE_SUFFIXES)}, but got {self._table}.")
        if not self._table.is_file():
            raise UserError(f"Expected the table {self._table}, but there is no such file.")
        if not self._folder.is_dir():
            raise UserError(f"Expected a folder of images at {self._folder}, but there is none. Set `images`.")
        # Read once here and once when iterated, so that only rows apart from the others of their study are held.
        ids: set[str] = set()
        self._apart: dict[str, list[_Row]] = {}
        self._has_split, here = False, None
        for row in self._rows(warn=True):
            if row.id != here and row.id in ids:
                self._apart.setdefault(row.id, []).append(row)
            else:
                here = row.id
                ids.add(row.id)
            self._has_split |= row.values["split"] is not None
        if not ids:
            raise UserError(f"Expected studies in {self._table}, but there is none.")
        self._count = len(ids)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        apart = {row.place for rows in self._apart.values() for row in rows}
        together = (row for row in self._rows() if row.place not in apart)
        for id_, rows in groupby(together, key=lambda row: row.id):
            yield from self._study([*rows, *self._apart.get(id_, ())])

    def _rows(self, *, warn: bool = False) -> Iterator["_Row"]:
        known: dict[tuple[str, ...], dict[str, str]] = {}  # one for a CSV; for JSON one per set of keys
        for place, cells in read_rows(self._table):
            try:
                if not isinstance(cells, dict):
                    raise _RowFlaw(f"expected an object with id, images and report, but got {json_kind(cells)}")
                names = known.get(tuple(cells))
                if names is None:
                    names = known[tuple(cells)] = _find_columns(cells, self._columns)
                    if warn and (others := sorted(cells.keys() - set(names.values()))):
                        _log.warning("%s, %s: left out: %s.", self._table, place, others)
                yield _read_row(place, {key: cells[name] for key, name in names.items()})
            except _RowFlaw as flaw:
                raise UserError(f"{self._table}, {place}: {flaw}.") from flaw
        found = {key for names in known.values() for key in names}
        if known and (missing := sorted(self._columns.keys() - found)):
            columns = sorted({name for keys in known for name in keys})
            raise UserError(
                f"source.columns.{missing[0]}: expected a column of {self._table}, but got {self._columns[missing[0]]!r}; "
                f"its columns are {reprlib.repr(columns)}."
            )

    def _study(self, rows: Sequence["_Row"]) -> Iterator[OriginalStudy | DroppedEntry]:
        id_ = rows[0].id
        split = self._only(rows, "split")
        if self._has_split and split is None:
            yield DroppedEntry(id_, "no split")
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
                yield DroppedEntry(id_, "image not found", name)
        if not images:
            yield DroppedEntry(id_, "no image")
            return
        texts = {key: self._only(rows, key) or "" for key in _TEXTS}
        others = {key: self._only(rows, key) for key in ("patient", "labels")}
        yield OriginalStudy(id_, tuple(images), **texts, **others, split=split)

    def _only(self, rows: Sequence["_Row"], key: str) -> Any:
        """The value of a key in the rows of a study; rows that are not blank must agree."""
        values = {row.values[key]: row.place for row in reversed(rows) if row.values[key] is not None}
        if len(values) > 1:
            places = " and ".join(list(values.values())[::-1][:2])
            raise UserError(
                f"{self._table}, study {rows[0].id!r}: {places} differ in {key!r}. Give one value per study."
            )
        return next(iter(values), None)


def images_of_studies(table: Path, columns: Mapping[str, str | None] | None = None) -> dict[str, tuple[Path, ...]]:
    """The images of each study of a table that `ListedStudies` reads; the table needs no reports, and images may be anywhere.

    Args:
        table: .csv, .tsv, .jsonl or .json.
        columns: the table's names for id and images, where they are not common ones.

    Raises:
        UserError: the file is not such a table, or a row has no id or no image; with the line.
    """
    given = {key: column_name(str(name)) for key, name in (columns or {}).items() if name is not None}
    found: dict[str, list[str]] = {}
    for place, cells in read_rows(table):
        try:
            if not isinstance(cells, dict):
                raise _RowFlaw(f"expected an object with id and images, but got {json_kind(cells)}")
            names = _find_columns(cells, given, needs_report=False, setting="columns")
            row = {key: cells[names[key]] for key in ("id", "images")}
            id_, images = _text(row, "id", "a text or an integer"), _several(row, "images")
            if id_ is None or not images:
                raise _RowFlaw(f"expected an id and at least one image, but got {row}")
        except _RowFlaw as flaw:
            raise UserError(f"{table}, {place}: {flaw}.") from flaw
        found.setdefault(id_, []).extend(images)
    return {id_: tuple(table.parent / name for name in dict.fromkeys(names)) for id_, names in found.items()}


class _Row(NamedTuple):
    """A row with its cells parsed; None where blank."""

    place: str
    id: str
    images: tuple[str, ...]
    values: Mapping[str, str | None]
    """Of `_TEXTS`, "patient", "labels" and "split"."""


class _RowFlaw(Exception):
    """What is wrong with one row."""


def _find_columns(
    columns: _Cells, given: Mapping[str, str], *, needs_report: bool = True, setting: str = "source.columns"
) -> dict[str, str]:
    """The column of the table for each key: the given name, else a common one."""
    names = {}
    for key, common in _COMMON_NAMES.items():
        candidates = [given[key]] if key in given else [name for name in common if name not in given.values()]
        if (name := next((name for name in candidates if name in columns), None)) is not None:
            names[key] = name
    missing = [key for key in ("id", "images") if key not in names]
    if needs_report and names.keys().isdisjoint(_TEXTS):
        missing.append("report")
    if missing:
        expected = [f"{key} ({given.get(key) or ', '.join(_COMMON_NAMES[key])})" for key in missing]
        raise _RowFlaw(
            f"expected columns for {' and '.join(expected)}, but got {reprlib.repr(sorted(columns))}; "
            f"pass their names: '{setting}={{{', '.join(f'{key}: NAME' for key in missing)}}}'"
        )
    return names


def _read_row(place: str, cells: _Cells) -> _Row:
    id_ = _text(cells, "id", "a text or an integer")
    if id_ is None:
        raise _RowFlaw("expected an id, but got a blank")
    split = _text(cells, "split", "a text")
    if split is not None and split.lower() not in _SPLITS:
        raise _RowFlaw(f"expected the split to be one of {', '.join(_SPLITS)}, but got {reprlib.repr(split)}")
    labels = _several(cells, "labels")
    if labels is not None:
        labels = [name for name in labels if name.lower() not in _NO_FINDING]
    images = tuple(_several(cells, "images") or ())
    values = {key: _text(cells, key, "a text") for key in _TEXTS}
    values["patient"] = _text(cells, "patient", "a text or an integer")
    values["labels"] = None if labels is None else label_text(labels)
    values["split"] = None if split is None else _SPLITS[split.lower()]
    return _Row(place, id_, images, values)


def _text(cells: _Cells, key: str, expected: str) -> str | None:
    """A cell without white space at its ends; None where it is blank."""
    value = cells.get(key)
    if type(value) is int and key in ("id", "patient"):
        return str(value)
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise _RowFlaw(f'expected "{key}" to be {expected}, but got {json_kind(value)}')
    return _checked(value, key).strip() or None


def _several(cells: _Cells, key: str) -> list[str] | None:
    """The texts of a cell; None where it is blank."""
    value = cells.get(key)
    if is_missing(value):
        return None
    if isinstance(value, str):
        try:
            value = parse_list(value) if value.lstrip().startswith("[") else re.split(r"[|;]", value)
        except ValueError as error:
            raise _RowFlaw(
                f'expected "{key}" to be JSON or a list of Python\'s, as it begins with "[", but {error}; write ["a", "b"] or a|b'
            ) from error
    if key == "labels" and isinstance(value, list):
        value = [part for part in value if not is_missing(part)]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise _RowFlaw(
            f'expected "{key}" to be a text, several between "|", or a list of texts, but got {json_kind(value)}'
        )
    # the names of labels as a reader sees them; paths as they are
    seen = visible_text if key == "labels" else str
    return [name for part in value if (name := seen(_checked(part, key)).strip())]


def _checked(text: str, key: str) -> str:
    """Refuse what JSON can spell but no file can hold."""
    if not is_unicode(text):
        raise _RowFlaw(f'expected "{key}" to be a text, but it has half of a surrogate pair')
    if "\0" in text:
        raise _RowFlaw(f'expected "{key}" to be a text, but it has a NUL')
    return text
