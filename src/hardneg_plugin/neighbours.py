"""Tables of mined hard negatives: for each study, which other studies have the nearest reports."""

import json
from pathlib import Path

from hardneg_plugin.errors import UserError


def read_neighbours(path: str | Path) -> dict[str, list[str]]:
    """A table from a JSON file: `{"study": ["its nearest other study", "the next", ...], ...}`.

    Raises:
        UserError: no such file, no JSON, or another form.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Neighbours {path} cannot be read: {error}.") from error
    if not isinstance(table, dict) or not table:
        raise UserError(f"Neighbours {path}: expected a JSON object of studies, but got {type(table).__name__}.")
    for study, names in table.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"Neighbours {path}: expected a list of study ids for {study!r}, but got {names!r:.60}.")
    return table
