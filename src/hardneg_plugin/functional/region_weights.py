"""Regions of an image as weights over its patches: a region's feature is `weights @ patches`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_weights(grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Which patches each cell of a coarser grid averages.

    Args:
        grid: h rows and w columns of patches, row by row.
        cells: rows and columns of cells, row by row; cells overlap where they do not divide the patches.

    Returns:
        `(rows * columns, h * w)`, each row of sum 1.

    >>> cell_weights((1, 4), (1, 2))
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    patches = torch.eye(grid[0] * grid[1]).view(-1, *grid)
    return F.adaptive_avg_pool2d(patches, cells).flatten(1).T


def box_weights(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each box that every patch covers.

    Args:
        boxes: `(..., 4)` as (top, left, bottom, right), in shares of the image's height and width; NaN: no such box. What lies
            outside of the image is left out.
        grid: h rows and w columns of patches, row by row.

    Returns:
        `(..., h * w)`, of sum 1, or 0 for no box.

    >>> box_weights(torch.tensor([0.0, 0.25, 1.0, 1.0]), (1, 2))
    tensor([0.3333, 0.6667])
    """
    top, left, bottom, right = boxes.unbind(-1)
    inside = _overlaps(top, bottom, grid[0])[..., :, None] * _overlaps(left, right, grid[1])[..., None, :]
    inside = inside.flatten(-2).nan_to_num(0.0)
    return inside / inside.sum(-1, keepdim=True).clamp_min(torch.finfo(inside.dtype).tiny)


def by_view(weights: Tensor, views: int) -> Tensor:
    """The same regions in each view of a study.

    Args:
        weights: `(R, P)` over the patches of one view.
        views: how many there are.

    Returns:
        `(views * R, views * P)` over the patches of all views.
    """
    blocks: Tensor = torch.block_diag(*(weights for _ in range(views)))  # type: ignore[no-untyped-call]
    return blocks


def _overlaps(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """How much of each of `cells` equal parts of [0, 1] lies between start and end: `(...)` to `(..., cells)`."""
    edges = torch.linspace(0, 1, cells + 1, device=start.device, dtype=start.dtype)
    return (torch.minimum(end[..., None], edges[1:]) - torch.maximum(start[..., None], edges[:-1])).clamp_min(0)
