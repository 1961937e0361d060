"""What a part of the acceptance is given, and the rows that it leaves."""

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LEFT_OUT = "left out"
"""The name of a row whose error says what a part had no time for."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Part:
    """A part by its name, such as "speed_16"; a function `(setting, rows)` of this package.

    Args:
        name: on the command line and in the results.
        call: "module" or "module:function"; the function is `run` unless named.
        title: what it shows, a line above its table.
        seconds: the most it may take.
        timed: it measures time, so nothing else runs meanwhile.
        studies: of a batch, for parts that come in several sizes.
        needs: packages without which it is skipped.
    """

    name: str
    call: str
    title: str
    seconds: float
    timed: bool = False
    studies: int = 16
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """Where and at which size a part runs."""

    device: str
    """ "cuda" or "cpu"."""
    tiny: bool
    """Small sizes, for a CPU."""
    studies: int
    """Of a batch."""
    recorded: Path
    """The folder with the recorded numbers of released models."""
    ends: float
    """By `time.monotonic()`; what a part has not begun by then it leaves out."""

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    def left(self) -> float:
        """Seconds that the part still has."""
        return self.ends - time.monotonic()


class Rows:
    """The rows of one part, in a file as soon as they are there: a part that is stopped loses none.

    Args:
        path: of the file, a JSON object a line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def row(self, name: str) -> Iterator[Row]:
        """A row to be filled in; an error within the block becomes its `error`, and the part goes on."""
        row: Row = {"": name}
        start = time.monotonic()
        try:
            yield row
        except Exception as error:
            traceback.print_exc()
            row |= {"ok": False, "error": short(error)}
        row["took_s"] = round(time.monotonic() - start, 2)
        self.add(row)

    def add(self, row: Row) -> None:
        """Write a row down."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr, flush=True)

    def read(self) -> list[Row]:
        """The rows so far."""
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:  # the last one, of a part that was killed as it wrote
                continue
        return rows


def short(error: BaseException) -> str:
    """An error on one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:400]
