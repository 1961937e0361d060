"""A process that reads the files of a folder, and says after each what came of it and how much memory it has taken so far.

    python read_in_turn.py FOLDER

READERS says how a file is read, by the first part of its name; "good-" files come first, and set what reading takes.
"""

import json
import resource
import sys
from pathlib import Path

from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.errors import UserError

READERS = {"image": read_grayscale}


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
