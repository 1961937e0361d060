"""A process that reads the files of a folder, and says after each what came of it and how much memory it has taken so far.

    python read_in_turn.py FOLDER

READERS says how a file is read, by the first part of its name; "good-" files come first, and set what reading takes.
"""

import json
import resource
import sys
from pathlib import Path

import pyarrow as pa

from hardneg_plugin.backbones.released import read_released
from hardneg_plugin.data.downloads.archives import read_members
from hardneg_plugin.data.downloads.mimic_tables import read_table
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours.table import read_neighbours
from hardneg_plugin.runs.checkpoint import read_checkpoint
from hardneg_plugin.runs.yaml_file import read_yaml

READERS = {
    "image": read_grayscale,
    "yaml": read_yaml,
    "checkpoint": read_checkpoint,
    "released": read_released,
    "table": lambda path: read_table(path, {"study_id": pa.string()}),
    "archive": lambda path: list(read_members(path)),
    "neighbours": read_neighbours,
}


def peak():
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).iterdir(), key=lambda path: ("good" not in path.name, path.name)):
        before = peak()
        try:
            READERS[path.name.split("-")[0]](path)
            told = None
        except UserError as error:
            told = str(error)
        print(json.dumps({"name": path.name, "told": told, "more": peak() - before}), flush=True)
