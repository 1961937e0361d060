"""Whether a map is high where a finding is: the pointing game and the overlap with its box.

Maps are upsampled bilinearly to the image; each value is that of the middle of its patch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Shares of a map's range that are tried."""
CHUNK_PIXELS = 2**22
"""Pixels upsampled at once, 16 MiB in float32."""
TIE = 1e-6
"""Values this close, as a share of the map's range, are equal: interpolation between equal values rounds in float32."""


def pointing_game(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """How surely the maximum of each map lies inside its box (Zhang et al. 2018, with no margin around the box).

    Of several maxima the share inside counts. So a constant map has the chance level, and a map of coarse regions, whose patches
    tie, the share of its highest region. A map of NaN has 0.

    Args:
        maps: `(M, h, w)`, any floating dtype.
        boxes: `(M, 4)` integers, `(y0, x0, y1, x1)` in pixels of the image, the ends exclusive.
        size: `(H, W)` of the images in pixels.

    Returns:
        `(M,)` float32, in [0, 1]; 0 or 1 where there is one maximum.

    Raises:
        ValueError: the shapes do not fit together, or a box is empty or not within the image.
    """
    _check(boxes, size, maps)
    hits = [torch.empty(0, device=maps.device)]
    for large, inside in _chunks(maps, boxes, size):
        is_top = large >= (1 - TIE) * large.amax(dim=(1, 2), keepdim=True)
        hits.append((is_top & inside).sum((1, 2)) / is_top.sum((1, 2)).clamp_min(1))
    return torch.cat(hits)


def box_iou(maps: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """The overlap of each thresholded map with its box, as sets of pixels: their intersection over their union.

    Args:
        maps, boxes, size: as in `pointing_game`.
        threshold: in [0, 1], as a share of the way from the map's minimum to its maximum; pixels from there on count. A constant
            map thus takes the whole image, and a map of NaN nothing.

    Returns:
        `(M,)` float32, in [0, 1].

    Raises:
        ValueError: as `pointing_game`, or for a threshold out of its range.
    """
    return _overlaps(maps, boxes, size, (threshold,))[0]


def choose_threshold(
    maps: Tensor, boxes: Tensor, size: tuple[int, int], thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """The threshold with the greatest mean `box_iou` over M validation maps, the first of equals.

    Args:
        maps, boxes, size: as in `pointing_game`; M >= 1.
        thresholds: to choose from, in [0, 1].

    Raises:
        ValueError: as `box_iou`, or for no map or no threshold.
    """
    if not len(maps) or not thresholds:
        raise ValueError(f"Expected validation maps and thresholds, but got {len(maps)} and {len(thresholds)}.")
    return thresholds[int(_overlaps(maps, boxes, size, thresholds).mean(dim=1).argmax())]


def chance_levels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of the image that each box takes, `(M,)` float32 in (0, 1].

    This is the chance of a random point to hit the box, and the overlap of a constant map with it at any threshold.

    Args:
        boxes, size: as in `pointing_game`.

    Raises:
        ValueError: as `pointing_game`.
    """
    _check(boxes, size)
    y0, x0, y1, x1 = boxes.unbind(dim=1)
    return ((y1 - y0) * (x1 - x0)).float() / (size[0] * size[1])


def _overlaps(maps: Tensor, boxes: Tensor, size: tuple[int, int], thresholds: Sequence[float]) -> Tensor:
    """`(T, M)`."""
    _check(boxes, size, maps)
    if not all(0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"Expected thresholds in [0, 1], but got {list(thresholds)}.")
    found = [torch.empty(len(thresholds), 0, device=maps.device)]
    for large, inside in _chunks(maps, boxes, size):
        above = large - large.amin(dim=(1, 2), keepdim=True)
        reach = above.amax(dim=(1, 2), keepdim=True)
        areas = (above >= (threshold - TIE) * reach for threshold in thresholds)
        found.append(torch.stack([(area & inside).sum((1, 2)) / (area | inside).sum((1, 2)) for area in areas]))
    return torch.cat(found, dim=1)


def _chunks(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Upsampled maps, whose patches have the minimum 0, and the pixels inside their boxes, `(C, H, W)` each."""
    height, width = (torch.arange(length, device=maps.device) for length in size)
    step = max(1, CHUNK_PIXELS // (size[0] * size[1]))
    for some, their_boxes in zip(maps.split(step), boxes.to(maps.device).split(step), strict=True):
        moved = some.float() - some.float().amin(dim=(1, 2), keepdim=True)  # first: constant maps must stay constant
        large = F.interpolate(moved[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        y0, x0, y1, x1 = their_boxes[:, :, None].unbind(dim=1)
        rows, columns = (height >= y0) & (height < y1), (width >= x0) & (width < x1)
        yield large, rows[:, :, None] & columns[:, None, :]


def _check(boxes: Tensor, size: tuple[int, int], maps: Tensor | None = None) -> None:
    if maps is not None and (maps.ndim != 3 or len(maps) != len(boxes)):
        raise ValueError(
            "Expected `maps` of shape (M, h, w) and a box for each, but got "
            f"{tuple(maps.shape)} and boxes {tuple(boxes.shape)}."
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_floating_point():
        raise ValueError(
            f"Expected `boxes` of shape (M, 4) in whole pixels, but got {tuple(boxes.shape)} {boxes.dtype}."
        )
    starts, ends = boxes[:, :2], boxes[:, 2:]
    fits = (starts >= 0).all(1) & (starts < ends).all(1) & (ends <= torch.tensor(size, device=boxes.device)).all(1)
    if not fits.all():
        wrong = int((~fits).nonzero()[0])
        raise ValueError(
            f"Expected boxes (y0, x0, y1, x1) within images of {size[0]} x {size[1]} pixels, the ends exclusive, "
            f"but box {wrong} is {boxes[wrong].tolist()}."
        )
