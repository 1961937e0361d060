"""Columns of a Parquet file, bounded: a few kilobytes of it can stand for any number of values."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardneg_plugin.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

MAX_TIMES = 50
"""How much larger columns may be than their file; texts compress to a tenth, repeated ones to less."""
ALWAYS = 2**26
"""Bytes of columns that any file may have."""
_ROWS = 256
"""Read at a time."""


def read_parquet(parquet: "ParquetFile", columns: Sequence[str], path: Path) -> "pa.Table":
    """Some columns of an open Parquet file, without threads, so that a forked worker can read too.

    Args:
        parquet: the file.
        columns: their names.
        path: of the file, for the message and its size.

    Raises:
        UserError: they would be more than `MAX_TIMES` as large as the file.
        OSError, pyarrow.ArrowException: the file is damaged.
    """
    import pyarrow as pa

    allowed = ALWAYS + MAX_TIMES * path.stat().st_size
    groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
    if (
        sum(group.column(index).total_uncompressed_size for group in groups for index in range(group.num_columns))
        > allowed
    ):
        raise _too_large(path, allowed)
    batches, size = [], 0
    for batch in parquet.iter_batches(_ROWS, columns=list(columns), use_threads=False):
        batches.append(batch)
        size += batch.nbytes
        if size > allowed:
            raise _too_large(path, allowed)
    schema = pa.schema([parquet.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(batches).select(list(columns)) if batches else schema.empty_table()


def _too_large(path: Path, allowed: int) -> UserError:
    return UserError(
        f"{path}: expected a table of at most {allowed:,} bytes in memory, but it becomes larger. Do not use it."
    )
