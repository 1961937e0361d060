"""Where the anatomical regions of a phantom are in its images, as a detector of regions would report."""

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.data.phantom.findings import Finding
from hardneg_plugin.data.phantom.projections import Frontal, Lateral
from hardneg_plugin.data.phantom.render import VIEWS, Stream, project, smallest_box

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
        for name, mask in _masks(project(stream, findings, view, size)):
            if (box := smallest_box(mask)) is not None:
                boxes[which, REGIONS.index(name)] = np.array(box, np.float32) / size
    return boxes


def _masks(scene: Frontal | Lateral) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "heart", scene.heart > 0.5
    if isinstance(scene, Lateral):
        return
    body, grid = scene.body, scene.grid
    height = (grid.v - body.apex) / body.height
    for side, is_side in (("right", grid.u < 0), ("left", grid.u >= 0)):
        for zone, (low, high) in ZONES.items():
            yield f"{side} {zone} zone", (scene.ribcage > 0.5) & is_side & (height >= low) & (height < high)
    yield "mediastinum", (scene.out < body.mediastinum + 0.05) & (height >= 0) & (height < 1)
