"""The tables of MIMIC-CXR-JPG as arrays: hundreds of thousands of rows without an object each."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.errors import UserError

_SPLIT_NAMES: dict[str, SplitName] = {"train": "train", "validate": "val", "val": "val", "test": "test"}
NULLS = ["", "nan", "NaN", "<NA>", "null", "NULL", "#N/A", "None"]
"""Cells that stand for none, as `is_missing` has them."""
_ALWAYS, _MAX_TIMES = 2**26, 50
"""Bytes that any compressed table may become, and as how many times its own more; those of MIMIC-CXR-JPG compress to a tenth."""
_BLANK, _UNCERTAIN, _NEGATIVE, _POSITIVE = -2, -1, 0, 1


class Metadata(NamedTuple):
    """N images ordered by study; those of one study in the order of the table."""

    study: NDArray[np.int64]
    """`(N,)` study of each image."""
    subject: NDArray[np.int64]
    """`(N,)` patient of each image."""
    dicom: Any
    """N Arrow strings: the file's name without its ending."""
    view: Any
    """N Arrow strings in capitals, such as "AP", null where unknown; None if not read."""
    starts: NDArray[np.int64]
    """`(S + 1,)`: where each of the S studies begins, and N."""


def read_metadata(file: Path, *, views: bool) -> Metadata:
    """Read mimic-cxr-2.0.0-metadata.csv.

    Args:
        file: the table.
        views: whether the column ViewPosition is read.

    Raises:
        UserError: it cannot be read (`read_table`), is empty, or a dicom_id is not a plain file name.
    """
    texts = ("dicom_id", "ViewPosition") if views else ("dicom_id",)
    table = read_table(file, {"subject_id": pa.string(), "study_id": pa.string()} | dict.fromkeys(texts, pa.string()))
    if not len(table):
        raise UserError(f"Expected images in {file}, but it has no row. Download it again.")
    study = parse_identifiers(table, "study_id", file)
    order = np.argsort(study, kind="stable")
    dicom = table["dicom_id"].combine_chunks()
    plain = pc.fill_null(pc.match_substring_regex(dicom, r"^\w[\w-]*(\.[\w-]+)*$"), False)
    if not pc.all(plain, min_count=0).as_py():
        wrong = dicom.filter(pc.invert(plain))[0].as_py()
        raise UserError(f"Expected names of files without a folder as dicom_id in {file}, but got {wrong!r}.")
    study = study[order]
    view = pc.utf8_upper(pc.utf8_trim_whitespace(table["ViewPosition"])).combine_chunks().take(order) if views else None
    return Metadata(
        study,
        parse_identifiers(table, "subject_id", file)[order],
        dicom.take(order),
        view,
        np.append(np.unique(study, return_index=True)[1], len(study)),
    )


def read_splits(file: Path, studies: NDArray[np.int64]) -> NDArray[np.int8]:
    """Read mimic-cxr-2.0.0-split.csv.

    Args:
        file: the table.
        studies: `(S,)` study numbers.

    Returns:
        `(S,)`: for each of these studies the place of its split in `SPLITS`, -1 where it has none.

    Raises:
        UserError: it cannot be read (`read_table`), has another split than train, validate and test, or two for one study.
    """
    table = read_table(file, {"study_id": pa.string(), "split": pa.string()})
    column = table["split"].combine_chunks().dictionary_encode()
    names = column.dictionary.to_pylist()
    if column.null_count or (others := sorted(set(names) - _SPLIT_NAMES.keys())):
        got = "a blank" if column.null_count else ", ".join(map(repr, others))
        raise UserError(f"Expected train, validate and test as splits in {file}, but got {got}.")
    of_name = np.array([SPLITS.index(_SPLIT_NAMES[name]) for name in names], np.int8)
    split, study = of_name[column.indices.to_numpy()], parse_identifiers(table, "study_id", file)
    order = np.argsort(study, kind="stable")
    split, study = split[order], study[order]
    twice = (study[1:] == study[:-1]) & (split[1:] != split[:-1])
    if twice.any():
        raise UserError(f"Expected one split per study in {file}, but study {study[1:][twice][0]} has two.")
    rows = pc.index_in(pa.array(studies), value_set=pa.array(study))
    codes: NDArray[np.int8] = pc.fill_null(pc.take(pa.array(split), rows), -1).to_numpy()
    return codes


class Labels:
    """mimic-cxr-2.0.0-chexpert.csv or -negbio.csv: 1.0 is positive, -1.0 uncertain, 0.0 negative, blank not mentioned.

    Raises:
        UserError: it cannot be read (`read_table`), has no labels, another value, or a study twice.
    """

    def __init__(self, file: Path) -> None:
        table = read_table(file, {"subject_id": pa.string(), "study_id": pa.string()}, others=pa.float64())
        self._names = [name for name in table.column_names if name not in ("study_id", "subject_id")]
        if not self._names:
            raise UserError(f"Expected a column per label beside subject_id and study_id in {file}, but got none.")
        self._rows = StudyRows(table, "study_id", file)
        self._values = np.stack([_marks(table[name], name, file) for name in self._names], axis=1)

    def of(self, study: int) -> str | None:
        """Canonical text of the label set: names of positive labels, and of uncertain ones with "?".

        "No Finding" is the empty set. None: the study is not in the table, or its row is blank.
        """
        row = self._rows.find(study)
        if row is None or (self._values[row] == _BLANK).all():
            return None
        ends = {_POSITIVE: "", _UNCERTAIN: "?"}
        marks = zip(self._names, self._values[row].tolist(), strict=True)
        return "|".join(sorted(name + ends[mark] for name, mark in marks if mark in ends and name != "No Finding"))


def _marks(column: Any, name: str, file: Path) -> NDArray[np.int8]:
    values = column.to_numpy(zero_copy_only=False)
    blank = np.isnan(values)
    if len(wrong := values[~blank & ~np.isin(values, (_UNCERTAIN, _NEGATIVE, _POSITIVE))]):
        raise UserError(f"Expected 1.0, 0.0, -1.0 or a blank in column {name!r} of {file}, but got {wrong[0]:g}.")
    return np.where(blank, _BLANK, values).astype(np.int8)


class StudyRows:
    """Rows of a table by study.

    Args:
        table: the table.
        column: of the studies.
        file: of the table, for the error.

    Raises:
        UserError: an identifier is not a number (`parse_identifiers`), or repeated.
    """

    def __init__(self, table: Any, column: str, file: Path) -> None:
        study = parse_identifiers(table, column, file)
        self._order = np.argsort(study, kind="stable")
        self._studies = study[self._order]
        if (twice := self._studies[1:] == self._studies[:-1]).any():
            raise UserError(f"Expected each study once in {file}, but {self._studies[1:][twice][0]} is repeated.")

    def find(self, study: int) -> int | None:
        """The row of a study; None where there is none."""
        place = int(np.searchsorted(self._studies, study))
        return int(self._order[place]) if self._studies[place : place + 1].tolist() == [study] else None


def find_table(root: Path, name: str, setting: str) -> Path:
    """A table, compressed or not, whichever exists.

    Args:
        root: its folder.
        name: with or without .gz.
        setting: that names it, for the error.

    Raises:
        UserError: neither exists.
    """
    plain = name.removesuffix(".gz")
    for file in (root / name, root / plain, root / f"{plain}.gz"):
        if file.is_file():
            return file
    raise UserError(f"Expected {root / plain} or {plain}.gz, but there is neither. Download it, or set `{setting}`.")


def read_table(file: Path, columns: Mapping[str, Any], *, others: Any = None) -> Any:
    """Columns of a CSV file with a header, gzip or not, as an Arrow table; a blank is null.

    Args:
        file: the file.
        columns: those that must be there, and their Arrow types.
        others: the type of all other columns; None: these are not read.

    Raises:
        UserError: it cannot be read, lacks a column, has a ragged row, a value of another type, or is not UTF-8.
    """
    try:
        with file.open("rb") as start:
            kind = "gzip" if start.read(2) == b"\x1f\x8b" else None
        if kind is not None:
            _check_inflated(file)
        parsing = csv.ParseOptions(newlines_in_values=True)
        with pa.input_stream(str(file), compression=kind) as stream:
            there = csv.open_csv(stream, parse_options=parsing).schema.names
        if missing := [name for name in columns if name not in there]:
            raise UserError(
                f"Expected the columns {', '.join(columns)} in {file}, but {missing[0]} is not among {there}."
            )
        types = dict(columns) if others is None else dict.fromkeys(there, others) | dict(columns)
        converting = csv.ConvertOptions(
            column_types=types, include_columns=list(types), strings_can_be_null=True, null_values=NULLS
        )
        with pa.input_stream(str(file), compression=kind) as stream:
            return csv.read_csv(stream, parse_options=parsing, convert_options=converting)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Expected a CSV table in {file}, but it cannot be read ({reason}). Download it again."
        ) from error


def _check_inflated(file: Path) -> None:
    """Refuse a compressed table that becomes much larger than tables do."""
    allowed, size = _ALWAYS + _MAX_TIMES * file.stat().st_size, 0
    with gzip.open(file) as content:
        while part := content.read(2**20):
            size += len(part)
            if size > allowed:
                raise UserError(
                    f"Expected a table of at most {allowed:,} bytes in {file}, but it inflates to more. Do not use it."
                )


def parse_identifiers(table: Any, column: str, file: Path) -> NDArray[np.int64]:
    """A column of identifiers, "50414267" or with a letter, "s50414267", as numbers.

    Args:
        table: the table.
        column: its name.
        file: of the table, for the error.

    Returns:
        `(N,)`.

    Raises:
        UserError: an identifier is blank or not such a number.
    """
    texts = pc.replace_substring_regex(pc.fill_null(table[column], ""), r"^[ps]", "")
    plain = pc.match_substring_regex(texts, r"^[0-9]{1,18}$")
    if not pc.all(plain, min_count=0).as_py():
        wrong = table[column].filter(pc.invert(plain))[0].as_py()
        raise UserError(f"Expected a number as {column} in each row of {file}, but got {wrong!r}.")
    values: NDArray[np.int64] = pc.cast(texts, pa.int64()).to_numpy()
    return values
