"""The training curves of a run, read from its CSV logs."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.pages.content import Curve
from hardneg_plugin.runs.folder import RunFolder

POINTS = 500
"""At most so many of a curve: more cannot be told apart on a screen."""

Points = dict[int, float]
"""The value at each step."""


def read_curves(run: RunFolder, variant: str) -> list[Curve]:
    """Read the curves of training and validation, of at most `POINTS` points each.

    A run that was resumed has several files; where two of them have the same step, the later file counts.

    Args:
        run: the run; without CSV logs it has no curves.
        variant: what the run is called.

    Returns:
        The curves in the order of their names.

    Raises:
        UserError: a file is no table of numbers.
    """
    files = sorted(run.path.glob("logs/csv/*/metrics.csv"), key=lambda path: (len(str(path)), path))  # version_10 last
    curves: dict[str, Points] = {}
    for file in files:
        for name, points in _read(file).items():
            curves.setdefault(name, {}).update(points)
    return [Curve(variant=variant, name=name, points=thin(sorted(curves[name].items()))) for name in sorted(curves)]


def thin(points: list[tuple[int, float]], most: int = POINTS) -> list[tuple[int, float]]:
    """Evenly spread points of a curve, the first and the last among them.

    Args:
        points: of the curve.
        most: keep at most so many, >= 2.

    >>> thin([(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4), (4, 0.5)], most=3)
    [(0, 0.1), (2, 0.3), (4, 0.5)]
    """
    return [points[index] for index in spread(range(len(points)), most)]


def spread(scores: Sequence[float], limit: int) -> list[int]:
    """Indices of the lowest score, the highest, and an even spread between them, ascending.

    Args:
        scores: N of them.
        limit: at most so many indices, >= 1.

    >>> spread([0.4, 0.1, 0.3, 0.2, 0.5], 3)
    [1, 2, 4]
    """
    order = np.argsort(scores, kind="stable")
    chosen: list[int] = order[np.linspace(0, len(order) - 1, min(limit, len(order))).round().astype(int)].tolist()
    return sorted(chosen)


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
    # After training the best checkpoint is scored and logged under a further step, which is no point of a curve.
    scored = {step for step, values in rows if any(name.startswith("test/") for name in values)}
    curves: dict[str, Points] = {}
    for step, values in rows:
        for name, value in values.items():
            if name.startswith(("train/", "val/")) and math.isfinite(value) and step not in scored:
                curves.setdefault(name, {})[step] = value
    return curves
