"""Patch features of the views of studies, whatever network makes them of an image."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import require

BLACK_AND_WHITE = 255
"""The value of a white pixel; black is 0."""


class VisualFeatures(NamedTuple):
    """Features of B studies with V views of P patches."""

    patches: Tensor
    """`(B, V * P, width)`, view by view; zero where a view is missing."""
    patch_mask: Tensor
    """`(B, V * P)` bool, False where a view is missing."""
    pooled: Tensor
    """`(B, width)`: mean over the patches of existing views; zero for a study without views."""
    grid: tuple[int, int]
    """Rows and columns of the P patches of a view, which lie row by row."""
    entities: Tensor | None = None
    """`(B, Q, ...)`: features of the entity of each prompt, from a `GroundedVisual`."""
    projected_entities: Tensor | None = None
    """`(B, Q, width)`: the same in the width of the patches, for a report decoder that attends to them."""

    @property
    def context(self) -> Tensor:
        """What the report decoder attends to, `(B, N, width)`: the patches, then the projected entities."""
        if self.projected_entities is None:
            return self.patches
        return torch.cat([self.patches, self.projected_entities], dim=1)

    @property
    def context_mask(self) -> Tensor:
        """`(B, N)` bool; False throughout for a study without views."""
        if self.projected_entities is None:
            return self.patch_mask
        has_views = self.patch_mask.any(1, keepdim=True)
        return torch.cat([self.patch_mask, has_views.expand(-1, self.projected_entities.shape[1])], dim=1)

    def on_patches(self, attention: Tensor) -> Tensor:
        """Attention over the context `(..., N)` as maps `(..., V, rows, columns)` over the patches, of sum 1."""
        of_patches = attention[..., : self.patches.shape[1]]
        if self.projected_entities is not None:
            of_patches = of_patches / of_patches.sum(-1, keepdim=True).clamp(min=torch.finfo(of_patches.dtype).tiny)
        maps: Tensor = of_patches.unflatten(-1, (-1, *self.grid))
        return maps


class ViewEncoder(nn.Module):
    """A network over images, run on the existing views of studies only.

    A subclass makes `network`, and says in `feature_map` how it is called. Images become what the network expects by `mean` and
    `std`, on a scale on which black is 0 and white is 1: `(image / 255 - mean) / std`.

    Args:
        network: has the parameters; its feature maps have `width` channels.
        width: of the patches.
        mean, std: one number, or one for each of three equal channels.
        frozen: the network is not trained: no gradients, and its norms and dropout stay as in evaluation.

    Raises:
        UserError: `mean` or `std` are not one or three numbers, or a deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, width: int, *, mean: Sequence[float], std: Sequence[float], frozen: bool = False
    ) -> None:
        super().__init__()
        for name, values in (("visual.mean", mean), ("visual.std", std)):
            require(len(values) in (1, 3), name, "one number, or three", list(values))
        require(min(std) > 0, "visual.std", "numbers > 0", list(std))
        self.network, self.width, self.frozen = network, width, frozen
        # on the scale of the pixels, so that one subtraction and one division suffice
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, BLACK_AND_WHITE * torch.tensor(values)[:, None, None], persistent=False)
        if frozen:
            network.requires_grad_(False)
            network.eval()

    def feature_map(self, images: Tensor) -> Tensor:
        """The feature map `(N, rows, columns, width)` of N images `(N, 1 or 3, H, W)` as the network expects them."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "ViewEncoder":
        """Switch between training and evaluation; a frozen network stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VisualFeatures:
        """Extract features of existing views.

        Args:
            images: `(B, V, 1, H, W)`, uint8, or float on the same scale (0 is black, 255 white, not 1).
            view_mask: `(B, V)` bool, True where there is a view; None: all are there. Missing views are not run, so batch
                statistics never see them.

        Raises:
            ValueError: If the shapes do not fit, or the batch has no view.
        """
        if images.dim() != 5 or images.shape[2] != 1:
            raise ValueError(f"Expected `images` (B, V, 1, H, W), but got {tuple(images.shape)}.")
        studies, views = images.shape[:2]
        if view_mask is None:
            view_mask = torch.ones(studies, views, dtype=torch.bool, device=images.device)
        if view_mask.shape != (studies, views):
            raise ValueError(f"Expected `view_mask` {(studies, views)}, but got {tuple(view_mask.shape)}.")
        is_view = view_mask.flatten()
        existing = images.flatten(0, 1)[is_view]
        if not len(existing):
            raise ValueError("Expected at least one view in the batch, but `view_mask` is False throughout.")

        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            feature_map = self.feature_map((existing.to(self.mean.dtype) - self.mean) / self.std)
        features = feature_map.flatten(1, 2)
        patches = features.new_zeros(len(is_view), *features.shape[1:])
        patches[is_view] = features
        patches = patches.unflatten(0, (studies, views)).flatten(1, 2)
        patch_mask = view_mask.repeat_interleave(features.shape[1], dim=1)
        count = patch_mask.sum(1, keepdim=True).clamp(min=1)
        return VisualFeatures(patches, patch_mask, patches.sum(1) / count, (feature_map.shape[1], feature_map.shape[2]))
