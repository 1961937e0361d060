"""A visual extractor that says what it found, too."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hardneg_plugin.backbones.visual import VisualExtractor, VisualFeatures
from hardneg_plugin.grounding import Grounding, Patches


class GroundedVisual(nn.Module):
    """A visual extractor and the grounded-knowledge module.

    Args:
        visual: the extractor.
        grounding: makes the module, called with the width of the patches.
    """

    def __init__(self, visual: VisualExtractor, grounding: Callable[[int], Grounding]) -> None:
        super().__init__()
        self.extractor = visual
        self.grounding = grounding(visual.width)
        self.width = visual.width

    @property
    def network(self) -> Any:
        """The extractor's."""
        return self.extractor.network

    def forward(self, images: Tensor, view_mask: Tensor | None = None, boxes: Tensor | None = None) -> VisualFeatures:
        """As the extractor's, with what was found of each prompt.

        Args:
            images, view_mask: of `VisualExtractor`.
            boxes: `(B, V, R, 4)`, where the regions are boxes and the data set gives them.
        """
        seen: VisualFeatures = self.extractor(images, view_mask)
        entities = self.grounding(Patches(seen.patches, seen.patch_mask, seen.grid, boxes))
        return seen._replace(entities=entities)

    def attention(self, seen: VisualFeatures, boxes: Tensor | None = None) -> Tensor:
        """How much each of Q prompts looked at each patch of what was seen: `(B, Q, V * P)`, of sum 1."""
        return self.grounding.attention(Patches(seen.patches, seen.patch_mask, seen.grid, boxes))
