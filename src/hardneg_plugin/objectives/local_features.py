"""Words of reports and regions of images in one width."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardneg_plugin.distributed import Shards
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.projection import ProjectionHead

PHRASE = 5
"""Words that the convolution spans, an odd number."""


class LocalFeatures(NamedTuple):
    """Words of reports, or regions of images."""

    features: Tensor
    """`(..., M, D)`."""
    mask: Tensor
    """`(..., M)` bool, True where there is one."""
    whole: Tensor
    """`(..., D)`, their mean: the report or the image as a whole."""

    @staticmethod
    def of(features: Tensor, mask: Tensor) -> "LocalFeatures":
        """Features `(B, M, D)` with their mask `(B, M)`, and their mean as the whole."""
        return LocalFeatures(features, mask, masked_mean(features, mask))

    def gathered(self, shards: Shards) -> "LocalFeatures":
        """Those of all ranks, from the local ones `(B, M, D)`."""
        return LocalFeatures.of(*shards.gather_parts(self.features, self.mask))


class PartHeads(nn.Module):
    """Linear maps of words and regions to one width; each word gets a convolution of its neighbours added, at first zero.

    The words of a host may be plain embeddings, without any context: which side an effusion is on is said by the word beside it.

    Args:
        image_width: of the region features.
        report_width: of the word features.
        width: D, of both after the maps.

    >>> heads = PartHeads(image_width=6, report_width=4, width=8)
    >>> heads.of_words(torch.randn(2, 5, 4)).features.shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, image_width: int, report_width: int, width: int) -> None:
        super().__init__()
        self.regions = ProjectionHead(image_width, width, centred=False)
        self.words = ProjectionHead(report_width, width, centred=False)
        self.phrases = nn.Conv1d(width, width, PHRASE, padding=PHRASE // 2, bias=False)
        nn.init.zeros_(self.phrases.weight)

    def forward(self, pairs: PairEmbeddings) -> tuple[LocalFeatures, LocalFeatures]:
        """Words and regions of B studies.

        Raises:
            ValueError: `pairs` without regions or words.
        """
        if pairs.regions is None or pairs.words is None:
            raise ValueError(
                "This objective compares words with regions: give PairEmbeddings(regions=(B, P, D), words=(B, W, D)), "
                "with their masks."
            )
        return self.of_words(pairs.words, pairs.word_mask), self.of_regions(pairs.regions, pairs.region_mask)

    def of_words(self, words: Tensor, mask: Tensor | None = None) -> LocalFeatures:
        """Words in the shared width, in float32.

        Args:
            words: `(B, W, D_r)`.
            mask: `(B, W)` bool, True where there is a word; None: everywhere.
        """
        words, mask = _projected(self.words, words, mask)
        with torch.autocast(words.device.type, enabled=False):
            return LocalFeatures.of(words + self.phrases(words.mT).mT, mask)

    def of_regions(self, regions: Tensor, mask: Tensor | None = None) -> LocalFeatures:
        """Regions in the shared width, in float32.

        Args:
            regions: `(B, P, D_i)`.
            mask: `(B, P)` bool, True where there is a region; None: everywhere.
        """
        return LocalFeatures.of(*_projected(self.regions, regions, mask))


def _projected(head: ProjectionHead, parts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    mask = torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device) if mask is None else mask.bool()
    # masked features may hold anything: they must not turn into NaN
    with torch.autocast(parts.device.type, enabled=False):
        return head(torch.where(mask[:, :, None], parts.float(), 0.0)), mask
