"""From image patches to the positions of a language model that stand for the image."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.attention import Attention
from hardneg_plugin.backbones.layers import PatchPositions, attention_mask
from hardneg_plugin.errors import require


class Bridge(nn.Module, ABC):
    """Makes the positions that a language model reads as the image."""

    @abstractmethod
    def forward(self, patches: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The N positions of each image, `(B, N, width)`, and which of them there are, `(B, N)` bool.

        Args:
            patches: `(B, P, D_v)`.
            patch_mask: `(B, P)` bool; None: all are there. A study without patches counts as one with all.
        """

    @abstractmethod
    def on_patches(self, maps: Tensor, patches: Tensor, patch_mask: Tensor | None) -> Tensor:
        """From attention to the positions to attention to the patches.

        Args:
            maps: `(B, layers, heads, T, N)`.
            patches, patch_mask: as in `forward`.

        Returns:
            `(B, layers, heads, T, P)`.
        """


class PatchwiseBridge(Bridge):
    """One position for each patch: a linear layer, or two with GELU between.

    Args:
        patch_width: width `D_v` of the patches.
        width: of the language model.
        hidden: width between two layers; None: one layer.
        max_patches: learn a position for each of this many patches; None adds none.

    >>> positions, mask = PatchwiseBridge(6, 8)(torch.rand(2, 4, 6), None)
    >>> positions.shape, mask.shape
    (torch.Size([2, 4, 8]), torch.Size([2, 4]))
    """

    def __init__(
        self, patch_width: int, width: int, *, hidden: int | None = None, max_patches: int | None = None
    ) -> None:
        super().__init__()
        self.project: nn.Module = (
            nn.Linear(patch_width, width)
            if hidden is None
            else nn.Sequential(nn.Linear(patch_width, hidden), nn.GELU(), nn.Linear(hidden, width))
        )
        self.patch_positions = None if max_patches is None else PatchPositions(max_patches, width)

    def forward(self, patches: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Bridge`."""
        x = self.project(patches)
        x = x if self.patch_positions is None else self.patch_positions(x)
        mask = attention_mask(patch_mask)
        return x, x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask[:, 0, 0]

    def on_patches(self, maps: Tensor, patches: Tensor, patch_mask: Tensor | None) -> Tensor:
        """See `Bridge`: as they are."""
        return maps


class QueryBridge(Bridge):
    """N learned queries that attend to the patches: as many positions for any number of patches.

    Args:
        patch_width: width `D_v` of the patches.
        width: of the language model.
        queries: N, >= 1.
        heads: of the attention; a divisor of `width`.
        max_patches: learn a position for each of this many patches; None adds none.

    >>> positions, mask = QueryBridge(6, 8, queries=3, heads=2)(torch.rand(2, 4, 6), None)
    >>> positions.shape, mask.shape
    (torch.Size([2, 3, 8]), torch.Size([2, 3]))
    """

    def __init__(
        self, patch_width: int, width: int, *, queries: int, heads: int, max_patches: int | None = None
    ) -> None:
        super().__init__()
        self.project = nn.Linear(patch_width, width)
        self.patch_positions = None if max_patches is None else PatchPositions(max_patches, width)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.attention = Attention(width, heads, 0.0)
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Bridge`."""
        queries, image = self._inputs(patches)
        x: Tensor = self.norm(
            queries + self.attention(queries, self.attention.keys_values(image), attention_mask(patch_mask))
        )
        return x, x.new_ones(x.shape[:2], dtype=torch.bool)

    def on_patches(self, maps: Tensor, patches: Tensor, patch_mask: Tensor | None) -> Tensor:
        """See `Bridge`: over what each query attends to, averaged over the heads of the bridge."""
        queries, image = self._inputs(patches)
        keys, _ = self.attention.keys_values(image)
        weights = self.attention.weights(queries, keys, attention_mask(patch_mask)).mean(1)
        return maps @ weights[:, None, None].to(maps.dtype)

    def _inputs(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(patches)
        x = x if self.patch_positions is None else self.patch_positions(x)
        return self.queries.expand(len(patches), -1, -1), x


def make_bridge(
    kind: str, patch_width: int, width: int, *, queries: int, heads: int, max_patches: int | None
) -> Bridge:
    """The bridge of a name.

    Args:
        kind: "linear", "mlp" or "queries".
        patch_width, width, queries, heads, max_patches: as in the classes; `queries` and `heads` for "queries" only.

    Raises:
        UserError: `heads` does not divide `width`.
    """
    if kind == "queries":
        is_divisor = heads >= 1 and width % heads == 0
        require(is_divisor, "backbone.bridge_heads", f"a divisor of {width}, the width of the language model", heads)
        return QueryBridge(patch_width, width, queries=queries, heads=heads, max_patches=max_patches)
    return PatchwiseBridge(patch_width, width, hidden=width if kind == "mlp" else None, max_patches=max_patches)
