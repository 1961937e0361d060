"""Where the parts of a forest plot stand: differences of one measure on one axis, with a line at zero."""

import math
from typing import Any

from hardneg_plugin.pages.overview import ForestPanel

WIDTH, SIDE = 360.0, 10.0
ROW, AXIS = 36.0, 22.0
"""Heights of a row, whose label stands above its interval, and of the axis."""


def drawn_panel(panel: ForestPanel) -> dict[str, Any]:
    """Coordinates of a panel in an SVG of `WIDTH`: ticks, zero, and a row for each difference."""
    values = [value for row in panel.rows for value in (row.low, row.high, row.difference, *row.seeds)]
    least, most = min([0.0, *values]), max([0.0, *values])
    if least == most:
        least, most = -1.0, 1.0
    scale = (WIDTH - 2 * SIDE) / (most - least)

    def x(value: float) -> float:
        return round(SIDE + (value - least) * scale, 2)

    rows = []
    for place, row in enumerate(panel.rows):
        y = place * ROW
        rows.append(
            {
                "label": row.label,
                "told": row.told,
                "verdict": row.verdict,
                "text": y + 14,
                "y": y + 22,
                "dots": y + 29,
                "low": x(row.low),
                "high": x(row.high),
                "difference": x(row.difference),
                "seeds": [x(seed) for seed in row.seeds],
            }
        )
    bottom = len(panel.rows) * ROW
    ticks = [{"x": x(value), "text": _text(value)} for value in nice_ticks(least, most)]
    return {
        "measure": panel.measure,
        "width": WIDTH,
        "height": bottom + AXIS,
        "bottom": bottom,
        "zero": x(0.0),
        "ticks": ticks,
        "rows": rows,
    }


def nice_ticks(least: float, most: float, count: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in a range, zero among them if it is inside.

    Args:
        least: lower end.
        most: upper end, above `least`.
        count: about so many.

    >>> nice_ticks(-0.13, 0.21)
    [-0.1, 0.0, 0.1, 0.2]
    """
    rough = (most - least) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def _text(value: float) -> str:
    return "0" if value == 0 else f"{value:+.6g}".replace("-", "−")
