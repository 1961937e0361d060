"""The table of a prepared folder, and its columns as arrays."""

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hardneg_plugin.data.store import StoredViews
from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.parquet_file import read_parquet

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("report", pa.string(), nullable=False),
        pa.field("findings", pa.string()),
        pa.field("impression", pa.string()),
        pa.field("patient", pa.string()),
        pa.field("labels", pa.string()),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("heights", pa.list_(pa.int32()), nullable=False),
        pa.field("widths", pa.list_(pa.int32()), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
        pa.field("views", pa.list_(pa.string()), nullable=False),
        pa.field("view_hashes", pa.list_(pa.int64())),  # tables of earlier versions have none
    ]
)
_READ = ("id", "split", "report", "patient", "labels", "shard", "offset", "heights", "widths", "checksum")


class Columns:
    """The rows of one split as Arrow and NumPy arrays: without an object per study, hundreds of thousands fit in a process.

    Args:
        table: the Parquet file.
        split: the one whose rows are read.

    Raises:
        UserError: it cannot be read as such a table.
    """

    def __init__(self, table: Path, split: SplitName) -> None:
        rows = read_columns(table, _READ)
        rows = rows.filter(pc.equal(rows["split"], split))
        column = {name: rows[name].combine_chunks() for name in _READ}
        self.ids: Sequence[str] = TextColumn(column["id"])
        self.reports: Sequence[str] = TextColumn(column["report"])
        self.patients: Sequence[str | None] = TextColumn(column["patient"])
        self.labels: Sequence[str | None] = TextColumn(column["labels"])
        self.shards, self.offsets, self.checksums = (
            column[name].to_numpy() for name in ("shard", "offset", "checksum")
        )
        views, also = (pc.list_value_length(column[name]).to_numpy() for name in ("heights", "widths"))
        if not np.array_equal(views, also):
            raise UserError(
                f"{table}: expected as many heights as widths in each row. Copy it again, or prepare it anew."
            )
        self.first_view: NDArray[np.int64] = np.concatenate(([0], np.cumsum(views, dtype=np.int64)))
        self.heights, self.widths = (pc.list_flatten(column[name]).to_numpy() for name in ("heights", "widths"))

    @property
    def view_counts(self) -> list[int]:
        """Number of views of each study."""
        counts: list[int] = np.diff(self.first_view).tolist()
        return counts

    def place(self, index: int) -> tuple[int, StoredViews]:
        """The shard of a study, and its place there."""
        index = range(len(self.ids))[index]
        views = slice(self.first_view[index], self.first_view[index + 1])
        return int(self.shards[index]), StoredViews(
            int(self.offsets[index]),
            tuple(self.heights[views].tolist()),
            tuple(self.widths[views].tolist()),
            int(self.checksums[index]),
        )

    def ends(self) -> NDArray[np.float64]:
        """The byte in its shard at which each study ends, `(N,)`; nan where the table gives an impossible place."""
        # floating point: exact up to 2**53, and values of a broken table cannot wrap around
        sizes = self.heights.astype(np.float64) * self.widths
        broken = (self.offsets < 0) | (self.shards < 0) | (np.diff(self.first_view) < 1)
        broken |= self._per_study((self.heights < 1) | (self.widths < 1)) > 0
        return np.where(broken, np.nan, self.offsets + self._per_study(sizes))

    def _per_study(self, values: NDArray[Any]) -> NDArray[np.float64]:
        totals = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
        return totals[self.first_view[1:]] - totals[self.first_view[:-1]]


class TextColumn(Sequence[str]):
    """A column of texts, each made on access."""

    def __init__(self, column: "pa.StringArray") -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.column[index].to_pylist()
        return self.column[range(len(self))[index]].as_py()  # range: an IndexError

    def __iter__(self) -> Iterator[str]:
        return (text.as_py() for text in self.column)


def read_columns(table: Path, names: Sequence[str]) -> "pa.Table":
    """Columns of the table, checked for the types of `SCHEMA` and for missing values.

    Args:
        table: the Parquet file.
        names: of the columns.

    Raises:
        UserError: the table cannot be read or does not follow the schema.
    """
    try:
        with pq.ParquetFile(table) as file:
            for name in names:
                place = file.schema_arrow.get_field_index(name)
                kind = None if place < 0 else file.schema_arrow.field(place).type
                if kind != SCHEMA.field(name).type:
                    raise UserError(
                        f"{table}: expected a column {name} of {SCHEMA.field(name).type}, but "
                        f"{'there is none' if kind is None else f'it is {kind}'}. Prepare the folder anew."
                    )
            rows = read_parquet(file, names, table)
            rows.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"Expected the table of a prepared folder, but {table} cannot be read ({first_line(error)}). Copy it again, or "
            "prepare it."
        ) from error
    for name in names:
        values = pc.list_flatten(rows[name]) if pa.types.is_list(SCHEMA.field(name).type) else rows[name]
        if not SCHEMA.field(name).nullable and (rows[name].null_count or values.null_count):
            raise UserError(f"{table}: expected a value in every row of {name}. Copy it again, or prepare it anew.")
    return rows


def view_keys(table: Path) -> dict[SplitName, list[frozenset[Hashable]]]:
    """By split, for each study the keys of its views: equal images have equal keys.

    A table of an earlier version has no hash of each view; there a study counts as one image, by its checksum and sizes.

    Args:
        table: the Parquet file.

    Raises:
        UserError: it cannot be read.
    """
    names = ["split", "heights", "widths", "checksum"]
    with contextlib.suppress(UserError):
        read_columns(table, ["view_hashes"])
        names = ["split", "view_hashes"]
    found: dict[SplitName, list[frozenset[Hashable]]] = {name: [] for name in SPLITS}
    for split, *marks in zip(*(column.to_pylist() for column in read_columns(table, names).columns), strict=True):
        one_hash_a_view = len(marks) == 1
        keys = (marks[0] or ()) if one_hash_a_view else (str(marks),)
        if split in found:
            found[split].append(frozenset(keys))
    return found


def check_texts(table: Path, columns: Mapping[SplitName, Columns]) -> None:
    """Check ids, reports and splits of a table.

    Args:
        table: the Parquet file.
        columns: of its splits.

    Raises:
        UserError: a text is empty, an id is repeated, or a split is empty or unknown.
    """
    rows = read_columns(table, ("id", "split", "report"))
    for name in rows.column_names:
        if pc.any(pc.equal(rows[name], "")).as_py():
            raise UserError(
                f"{table}: expected a text in every row of {name}, but got an empty one. Prepare the folder anew."
            )
    for name in SPLITS:
        if not len(columns[name].ids):
            raise UserError(f"{table}: expected studies in every split, but {name} has none. Prepare the folder anew.")
    if (known := sum(len(split.ids) for split in columns.values())) != len(rows):
        raise UserError(f"{table}: expected splits of {SPLITS}, but {len(rows) - known} studies have another.")
    if pc.count_distinct(rows["id"]).as_py() != len(rows):
        raise UserError(f"{table}: expected each id once, but got a repeated one. Prepare the folder anew.")
