"""Files of a prepared folder that grow while it is prepared."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from hardneg_plugin.data.downloads.study import DroppedEntry
from hardneg_plugin.data.prepare.work_folder import GO_ON
from hardneg_plugin.data.study_table import SCHEMA
from hardneg_plugin.files import writing

Self = TypeVar("Self", bound="_File")


class _File:
    """A file of the unfinished folder, written chunk by chunk; every command starts it anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self: Self) -> Self:
        with writing(self._path, GO_ON):
            self._file: BinaryIO = open(self._path, "wb")  # closed by finish, or below
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # unfinished after an error, which is reported already
            self._file.close()

    def finish(self) -> None:
        """Write everything to the disk."""
        with writing(self._path, GO_ON):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


class DroppedLines(_File):
    """A line for each study or view left out."""

    def add(self, entry: DroppedEntry) -> None:
        """Write a line."""
        line = json.dumps({"id": entry.id, "reason": entry.reason, "detail": entry.detail}, ensure_ascii=False)
        with writing(self._path, GO_ON):
            self._file.write(line.encode(errors="backslashreplace") + b"\n")

    def append(self, path: Path) -> None:
        """Append the lines of another such file."""
        with writing(self._path, GO_ON), open(path, "rb") as file:
            shutil.copyfileobj(file, self._file)


class TableRows(_File):
    """The table of studies, a row group per chunk."""

    def __enter__(self: Self) -> Self:
        super().__enter__()
        with writing(self._path, GO_ON):
            self._writer = pq.ParquetWriter(self._file, SCHEMA)
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, ValueError):  # ValueError: the file is closed
            self._writer.close()
        super().__exit__(*error)

    def add(self, rows: "pa.Table") -> None:
        """Write a row group."""
        with writing(self._path, GO_ON):
            self._writer.write_table(rows)

    def finish(self) -> None:
        """Write the end of the table, and everything to the disk."""
        with writing(self._path, GO_ON):
            self._writer.close()
        super().finish()
