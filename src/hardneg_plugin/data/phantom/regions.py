"""Where the anatomical regions of a phantom are in its images, as a detector of regions would report."""

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.data.phantom.anatomy import draw_body, draw_grid, shape_body
from hardneg_plugin.data.phantom.findings import Finding
from hardneg_plugin.data.phantom.projections import Frontal, Lateral
from hardneg_plugin.data.phantom.render import VIEWS, Stream, draws

ZONES = {"upper": (-0.1, 0.39), "mid": (0.39, 0.66), "lower": (0.66, 1.15)}
"""The heights of the lung zones, from the apex (0) to the dome of the diaphragm (1)."""

REGIONS = (*(f"{side} {zone} zone" for side in ("right", "left") for zone in ZONES), "heart", "mediastinum")
"""The regions of a view; in the lateral view both sides overlap, and only the heart is a region."""


def region_boxes(stream: Stream, findings: Collection[Finding], size: int) -> NDArray[np.float32]:
    """The boxes of `REGIONS` in both views, `(2, R, 4)` as (top, left, bottom, right) in shares of the image.

    Args:
        stream: of the study.
        findings: of the study: a large heart has a large box.
        size: height and width of the images in pixels; boxes end at pixel edges.

    Returns:
        NaN where a view does not show a region.
    """
    boxes = np.full((len(VIEWS), len(REGIONS), 4), np.nan, np.float32)
    for which, view in enumerate(VIEWS):
        for name, mask in _masks(stream, findings, size, view):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                ends = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
                boxes[which, REGIONS.index(name)] = np.array(ends, np.float32) / size
    return boxes


def _masks(
    stream: Stream, findings: Collection[Finding], size: int, view: str
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    body = shape_body(draw_body(draws(stream, 1)), findings)
    grid = draw_grid(size, draws(stream, 2, VIEWS.index(view)))
    if view == "lateral":
        yield "heart", Lateral(body, grid).heart > 0.5
        return
    frontal = Frontal(body, grid)
    height = (grid.v - body.apex) / body.height
    for side, is_side in (("right", grid.u < 0), ("left", grid.u >= 0)):
        for zone, (low, high) in ZONES.items():
            yield f"{side} {zone} zone", (frontal.ribcage > 0.5) & is_side & (height >= low) & (height < high)
    yield "heart", frontal.heart > 0.5
    yield "mediastinum", (frontal.out < body.mediastinum + 0.05) & (height >= 0) & (height < 1)
