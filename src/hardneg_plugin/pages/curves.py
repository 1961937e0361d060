"""The training curves of a run, read from its CSV logs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.pages.content import Curve
from hardneg_plugin.runs.csv_log import read_csv_log
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
    curves: dict[str, Points] = {}
    for row in read_csv_log(run):
        for name, value in row.values.items():
            curves.setdefault(name, {})[row.step] = value
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


def spread(scores: Sequence[float] | NDArray[np.float64], limit: int) -> list[int]:
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
