"""Words and regions of studies in the width that both share."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardneg_plugin.distributed import Shards
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.projection import ProjectionHead

PHRASE = 5
"""Words that are read together, an odd number."""


class LocalFeatures(NamedTuple):
    """Words or regions of studies."""

    features: Tensor
    """`(..., M, D)`."""
    mask: Tensor
    """`(..., M)` bool, True where there is one."""
    whole: Tensor
    """`(..., D)`: the report or the image as one vector."""

    @staticmethod
    def of(features: Tensor, mask: Tensor) -> "LocalFeatures":
        """Those `(B, M, D)` that are there by the mask `(B, M)`; their mean is the whole."""
        return LocalFeatures(features, mask, masked_mean(features, mask))

    def gathered(self, shards: Shards) -> "LocalFeatures":
        """Those of all ranks, of `(B, M, D)` own ones."""
        return LocalFeatures.of(*shards.gather_parts(self.features, self.mask))


class PartHeads(nn.Module):
    """Linear maps of words and regions to one width; each word is read with its neighbours.

    A host's words may be plain embeddings, which know no order: that an effusion is on the left is said by the word beside it.
    What a convolution makes of the `PHRASE` words around each is added to it, nothing at the start.

    Args:
        image_width, report_width: of the features.
        width: D, of what they become.
    """

    def __init__(self, image_width: int, report_width: int, width: int) -> None:
        super().__init__()
        self.regions = ProjectionHead(image_width, width, centred=False)
        self.words = ProjectionHead(report_width, width, centred=False)
        self.phrases = nn.Conv1d(width, width, PHRASE, padding=PHRASE // 2, bias=False)
        nn.init.zeros_(self.phrases.weight)

    def forward(self, pairs: PairEmbeddings) -> tuple[LocalFeatures, LocalFeatures]:
        """The words and the regions of B studies.

        Raises:
            ValueError: the host gives no regions or no words.
        """
        if pairs.regions is None or pairs.words is None:
            raise ValueError(
                "This alignment looks at words and regions: give PairEmbeddings(regions=(B, P, D), words=(B, W, D)), "
                "with their masks."
            )
        return self.of_words(pairs.words, pairs.word_mask), self.of_regions(pairs.regions, pairs.region_mask)

    def of_words(self, words: Tensor, mask: Tensor | None = None) -> LocalFeatures:
        """Features `(B, W, D)` in float32, of words `(B, W, D_r)`; the mask says which there are, None: all."""
        words, mask = _projected(self.words, words, mask)
        with torch.autocast(words.device.type, enabled=False):
            return LocalFeatures.of(words + self.phrases(words.mT).mT, mask)

    def of_regions(self, regions: Tensor, mask: Tensor | None = None) -> LocalFeatures:
        """Features `(B, P, D)` in float32, of regions `(B, P, D_v)`; the mask says which there are, None: all."""
        return LocalFeatures.of(*_projected(self.regions, regions, mask))


def _projected(head: ProjectionHead, parts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    mask = torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device) if mask is None else mask.bool()
    # what is under the mask may be anything: it must not turn into NaN
    with torch.autocast(parts.device.type, enabled=False):
        return head(torch.where(mask[:, :, None], parts.float(), 0.0)), mask
