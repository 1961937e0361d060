"""The folder of what an approximate mining has done so far, beside its table."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import read_json, write_json, writing
from hardneg_plugin.folder_lock import hold_folder

MADE_FROM = "made_from.json"


def parts_folder(table: Path) -> Path:
    """Where the parts of a table are.

    >>> parts_folder(Path("mined/neighbours.parquet")).as_posix()
    'mined/neighbours.parquet.parts'
    """
    return table.with_name(f"{table.name}.parts")


@contextmanager
def unfinished_mining(table: Path, made_from: Mapping[str, Any]) -> Iterator[Path]:
    """A folder for the parts of a table, with those of an interrupted mining; it is removed once the block has ended.

    After an error it stays, for the same command to go on.

    Args:
        table: the file that the parts are for.
        made_from: what the parts follow from, as plain values.

    Raises:
        UserError: another command is at work on it, it holds parts that were made from something else, or a file of it cannot be
            written.
    """
    folder = parts_folder(table)
    with (
        hold_folder(folder, command="hardneg-mine", busy="another hardneg-mine", remedy="Set another output."),
        writing(folder, "Run the same command to go on once it can be."),
    ):
        if (file := folder / MADE_FROM).exists():
            _check(folder, read_json(file, "mining"), made_from)
        else:
            write_json(file, made_from)
        for killed in folder.glob(".*"):
            killed.unlink()  # a file that was being written
        yield folder
        shutil.rmtree(folder)


def _check(folder: Path, before: Any, now: Mapping[str, Any]) -> None:
    earlier = before if isinstance(before, dict) else {}
    different = [key for key in now if earlier.get(key) != now[key]]
    if not different:
        return
    were = ", ".join(f"{key}={earlier.get(key)}" for key in different if key != "reports")
    told = [f"it was begun with {were}"] if were else []
    told += ["the studies were others"] if "reports" in different else []
    raise UserError(
        f"{folder}: expected an interrupted mining of these settings and studies, but {' and '.join(told)}. Delete the folder to "
        "mine from the start, or set another output."
    )
