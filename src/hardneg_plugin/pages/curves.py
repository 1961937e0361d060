"""The training curves of a run, from what its CSV logger wrote."""

import csv
import math
from pathlib import Path

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.pages.content import Curve
from hardneg_plugin.runs.folder import RunFolder

POINTS = 500
"""Of a curve at most: more cannot be told apart on a screen."""

Points = dict[int, float]
"""The value at each step."""


def curves_of(run: RunFolder, variant: str) -> list[Curve]:
    """The curves of training and validation, by name, of at most `POINTS` points; none where the run kept no CSV logs.

    A run that was resumed has a file for each time: of a step that two of them have, the later one counts.

    Raises:
        UserError: a file holds something else.
    """
    files = sorted(run.path.glob("logs/csv/*/metrics.csv"), key=lambda path: (len(str(path)), path))  # version_10 last
    curves: dict[str, Points] = {}
    for file in files:
        for name, points in _read(file).items():
            curves.setdefault(name, {}).update(points)
    return [Curve(variant=variant, name=name, points=thinned(sorted(curves[name].items()))) for name in sorted(curves)]


def thinned(points: list[tuple[int, float]], most: int = POINTS) -> list[tuple[int, float]]:
    """At most so many (two or more) of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[place] for place in np.linspace(0, len(points) - 1, most).round().astype(int).tolist()]


def _read(file: Path) -> dict[str, Points]:
    with file.open(newline="", encoding="utf-8") as lines:
        table = csv.DictReader(lines)
        try:
            rows = [(int(row.pop("step")), {name: float(text) for name, text in row.items() if text}) for row in table]
        except (KeyError, TypeError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
            raise UserError(
                f"{file}, line {table.line_num}: expected a table of numbers with the column step, but got {error!r}. Remove the "
                "file to do without its curves."
            ) from error
    # Once training is over its best checkpoint is scored, at a step of its own: that is no point of a curve.
    scored = {step for step, values in rows if any(name.startswith("test/") for name in values)}
    curves: dict[str, Points] = {}
    for step, values in rows:
        for name, value in values.items():
            if name.startswith(("train/", "val/")) and math.isfinite(value) and step not in scored:
                curves.setdefault(name, {})[step] = value
    return curves
