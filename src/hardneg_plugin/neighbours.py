"""The table of mined hard negatives: for each study the studies whose reports are closest to its own."""

import reprlib
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.json_file import json_kind, read_json


def read_neighbours(path: str | Path) -> dict[str, list[str]]:
    """The mined studies of each study, nearest first, from `{study id: [ids]}` in JSON.

    A study may have none. Ids are texts; integers are taken as such.

    Raises:
        UserError: the file is missing or no such table, is empty, or names for a study the study itself or another twice.
    """
    file = Path(path)
    content = read_json(file, "neighbour table")
    if not isinstance(content, dict):
        raise UserError(f"Expected {{study id: [ids, nearest first]}} in {file}, but got {json_kind(content)}.")
    if not content:
        raise UserError(f"Expected the neighbours of at least one study in {file}, but it is empty. Mine them again.")
    return {study: _neighbours(study, entry, file) for study, entry in content.items()}


def _neighbours(study: str, entry: Any, file: Path) -> list[str]:
    place = f"{file}, study {reprlib.repr(study)}"
    if not isinstance(entry, list):
        raise UserError(f"{place}: expected a list of study ids, nearest first, but got {json_kind(entry)}.")
    ids = []
    for position, name in enumerate(entry):
        if type(name) not in (str, int):
            raise UserError(f"{place}, [{position}]: expected a study id, but got {json_kind(name)}.")
        ids.append(str(name))
    if study in ids:
        raise UserError(f"{place}: expected other studies, but [{ids.index(study)}] is the study itself; take it out.")
    if len(set(ids)) < len(ids):
        repeated = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise UserError(f"{place}: expected each neighbour once, but got {repeated!r} twice; take one out.")
    return ids
