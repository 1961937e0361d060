"""Regions of an image: boxes of the data set, the cells of a grid, or what learned queries attend to."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError, require_count
from hardneg_plugin.functional.region_weights import box_weights, by_view, cell_weights


class Patches(NamedTuple):
    """The patches of B studies, view by view, and row by row within a view."""

    features: Tensor
    """`(B, P, D)`."""
    mask: Tensor | None
    """`(B, P)` bool, True where there is a patch; None: everywhere."""
    grid: tuple[int, int] | None
    """Rows and columns of a view's patches; None: not known."""
    boxes: Tensor | None = None
    """`(B, V, R, 4)` as (top, left, bottom, right) in shares of the image's height and width; NaN: no such box."""


class Regions(nn.Module, ABC):
    """R regions of each study, as weights over its patches."""

    kinds: int
    """The number of kinds of regions, each of which gets an embedding."""

    @abstractmethod
    def forward(self, patches: Patches) -> tuple[Tensor, Tensor]:
        """Weights `(B, R, P)`, each row of sum 1, or 0 where there is no region; and the kind of each region, `(R,)` int64."""


class Cells(Regions):
    """The cells of a grid over each view.

    Args:
        rows, columns: of the grid, positive integers; a cell averages its patches.

    >>> weights, kinds = Cells(2, 2)(Patches(torch.randn(1, 16, 8), mask=None, grid=(4, 4)))
    >>> weights.shape, kinds
    (torch.Size([1, 4, 16]), tensor([0, 1, 2, 3]))

    Raises:
        UserError: a number below 1.
    """

    def __init__(self, rows: int = 3, columns: int = 3) -> None:
        super().__init__()
        require_count(rows, "regions", "rows >= 1")
        require_count(columns, "regions", "columns >= 1")
        self.cells = rows, columns
        self.kinds = rows * columns

    def forward(self, patches: Patches) -> tuple[Tensor, Tensor]:
        """As of `Regions`; cells come view by view."""
        views, grid = _views(patches)
        weights = by_view(cell_weights(grid, self.cells), views).to(patches.features.device, non_blocking=True)
        kinds = torch.arange(self.kinds, device=weights.device).repeat(views)
        return _without_missing(weights.expand(len(patches.features), -1, -1), patches.mask), kinds


class Boxes(Regions):
    """Boxes of the data set, R in each view, and each view as a whole; boxes may be missing.

    Args:
        count: R, the most boxes of a view.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        require_count(count, "regions: count")
        self.count = count
        self.kinds = count + 1

    def forward(self, patches: Patches) -> tuple[Tensor, Tensor]:
        """As of `Regions`; view by view, its boxes and then the view as a whole.

        Raises:
            UserError: other numbers of boxes or views.
        """
        views, grid = _views(patches)
        studies = len(patches.features)
        boxes = patches.boxes
        if boxes is None:
            boxes = patches.features.new_full((studies, views, self.count, 4), torch.nan)
        if boxes.shape != (studies, views, self.count, 4):
            raise UserError(
                f"regions: expected boxes {(studies, views, self.count, 4)}, of {self.count} regions in each of {views} views, "
                f"but got {tuple(boxes.shape)}: set regions.count to the number of boxes in the data."
            )
        whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(studies, views, 1, 4)
        weights = box_weights(torch.cat([boxes, whole], dim=2), grid)  # (B, V, R + 1, P of a view)
        placed = torch.einsum("bvrp,vw->bvrwp", weights, torch.eye(views, device=weights.device))
        kinds = torch.arange(self.kinds, device=weights.device).repeat(views)
        return _without_missing(placed.flatten(3).flatten(1, 2), patches.mask), kinds


class Learned(Regions):
    """What learned queries attend to among all patches of a study, whatever its views and grid.

    Args:
        width: of the patches.
        count: number of queries.
    """

    def __init__(self, width: int, count: int = 16) -> None:
        super().__init__()
        require_count(count, "regions: count")
        require_count(width, "regions: width")
        self.kinds = count
        self.queries = nn.Parameter(torch.randn(count, width) * width**-0.5)
        self.keys = nn.Linear(width, width, bias=False)

    def forward(self, patches: Patches) -> tuple[Tensor, Tensor]:
        """As of `Regions`."""
        logits = self.queries @ self.keys(patches.features).mT
        if patches.mask is not None:
            logits = logits.masked_fill(~patches.mask[:, None], torch.finfo(logits.dtype).min)
        return _without_missing(logits.softmax(-1), patches.mask), torch.arange(self.kinds, device=logits.device)


def _views(patches: Patches) -> tuple[int, tuple[int, int]]:
    if patches.grid is None:
        raise UserError(
            "regions: cells and boxes need the rows and columns of the patches, which this host does not give: "
            "give features (B, C, H, W), or use learned queries (alignment.regions=learned)."
        )
    size = patches.grid[0] * patches.grid[1]
    views, left = divmod(patches.features.shape[1], size)
    if left or not views:
        raise UserError(
            f"regions: expected whole views of {patches.grid[0]} x {patches.grid[1]} patches, "
            f"but got {patches.features.shape[1]} patches."
        )
    return views, patches.grid


def _without_missing(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Weights `(B, R, P)` without the missing patches, again of sum 1."""
    if mask is None:
        return weights
    kept = weights * mask[:, None]
    return kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)
