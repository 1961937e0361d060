"""Files of a prepared folder that grow while it is prepared; every command starts them anew."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hardneg_plugin.data.downloads.study import DroppedEntry
from hardneg_plugin.data.prepare.work_folder import GO_ON
from hardneg_plugin.data.study_table import SCHEMA
from hardneg_plugin.files import open_no_link, writing


@contextmanager
def growing_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written and read, all of it on the disk at the end.

    Raises:
        UserError: it cannot be opened, or not be finished.
    """
    with writing(path, GO_ON):
        file = open(path, "w+b", opener=open_no_link)  # noqa: SIM115  # closed below
    try:
        yield file
        with writing(path, GO_ON):
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):  # unfinished after an error, which is reported already
            file.close()


def write_dropped(file: BinaryIO, entry: DroppedEntry) -> None:
    """Write the line of a study or view left out.

    Args:
        file: a `growing_file`.
        entry: what is left out, and why.
    """
    line = json.dumps(asdict(entry), ensure_ascii=False)
    with writing(Path(file.name), GO_ON):
        file.write(line.encode(errors="backslashreplace") + b"\n")


@contextmanager
def table_rows(path: Path) -> Iterator[Callable[["pa.Table"], None]]:
    """Open the table of studies, and yield what writes a row group.

    Raises:
        UserError: it cannot be written.
    """
    with growing_file(path) as file:
        with writing(path, GO_ON):
            writer = pq.ParquetWriter(file, SCHEMA)

        def add(rows: "pa.Table") -> None:
            with writing(path, GO_ON):
                writer.write_table(rows)

        try:
            yield add
            with writing(path, GO_ON):
                writer.close()
        finally:
            with suppress(OSError):
                writer.close()
