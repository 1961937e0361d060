"""A visual extractor with features of entities."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hardneg_plugin.backbones.visual_features import ViewEncoder, VisualFeatures
from hardneg_plugin.grounding import Grounding, Patches


class GroundedVisual(nn.Module):
    """A visual extractor and the grounded-knowledge module, which computes features of entities from the patches.

    Args:
        visual: the extractor.
        grounding: makes the module, called with the width of the patches.

    >>> from functools import partial
    >>> import torch
    >>> from hardneg_plugin.data.phantom import PhantomKnowledge
    >>> from hardneg_plugin.grounding import Cells
    >>> grounding = partial(Grounding, knowledge=PhantomKnowledge(), width=8, heads=2, regions=Cells(1, 1))
    >>> from hardneg_plugin.backbones.visual import VisualExtractor
    >>> visual = GroundedVisual(VisualExtractor("resnet10t"), grounding)
    >>> visual(torch.zeros(2, 1, 1, 64, 64)).entities.shape[::2]  # of each prompt, of width 8
    torch.Size([2, 8])
    """

    def __init__(self, visual: ViewEncoder, grounding: Callable[[int], Grounding]) -> None:
        super().__init__()
        self.extractor = visual
        self.grounding = grounding(visual.width)
        self.width = visual.width

    @property
    def network(self) -> Any:
        """The timm model of the extractor."""
        return self.extractor.network

    def forward(self, images: Tensor, view_mask: Tensor | None = None, boxes: Tensor | None = None) -> VisualFeatures:
        """Visual features with `entities`.

        Args:
            images, view_mask: as in `ViewEncoder`.
            boxes: `(B, V, R, 4)`, as in `Batch`; None: whole views, or regions that need no boxes.
        """
        visual: VisualFeatures = self.extractor(images, view_mask)
        entities = self.grounding(Patches(visual.patches, visual.patch_mask, visual.grid, boxes))
        return visual._replace(entities=entities)

    def attention(self, visual: VisualFeatures, boxes: Tensor | None = None) -> Tensor:
        """Attention of each of Q prompts to the patches, `(B, Q, V * P)`, of sum 1.

        Args:
            visual: from `forward`.
            boxes: as in `forward`.
        """
        return self.grounding.attention(Patches(visual.patches, visual.patch_mask, visual.grid, boxes))
