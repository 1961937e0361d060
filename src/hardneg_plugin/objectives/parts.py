"""Words and regions of studies in the width that both share."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardneg_plugin.distributed import Shards
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.objectives.head import Head
from hardneg_plugin.objectives.pairs import PairEmbeddings


class Local(NamedTuple):
    """Words or regions of studies."""

    features: Tensor
    """`(..., M, D)`."""
    mask: Tensor
    """`(..., M)` bool, True where there is one."""
    whole: Tensor
    """`(..., D)`: the report or the image as one vector."""

    @staticmethod
    def of(features: Tensor, mask: Tensor) -> "Local":
        """Those `(B, M, D)` that are there by the mask `(B, M)`; their mean is the whole."""
        return Local(features, mask, masked_mean(features, mask))

    def gathered(self, shards: Shards) -> "Local":
        """Those of all ranks, of `(B, M, D)` own ones."""
        return Local.of(*shards.gather_parts(self.features, self.mask))


class PartHeads(nn.Module):
    """Linear maps of words and regions to one width.

    Args:
        image_width, report_width: of the features.
        width: D, of what they become.
    """

    def __init__(self, image_width: int, report_width: int, width: int) -> None:
        super().__init__()
        self.regions = Head(image_width, width, centred=False)
        self.words = Head(report_width, width, centred=False)

    def forward(self, pairs: PairEmbeddings) -> tuple[Local, Local]:
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

    def of_words(self, words: Tensor, mask: Tensor | None = None) -> Local:
        """Features `(B, W, D)` in float32, of words `(B, W, D_r)`; the mask says which there are, None: all."""
        return _local(self.words, words, mask)

    def of_regions(self, regions: Tensor, mask: Tensor | None = None) -> Local:
        """Features `(B, P, D)` in float32, of regions `(B, P, D_v)`; the mask says which there are, None: all."""
        return _local(self.regions, regions, mask)


def _local(head: Head, parts: Tensor, mask: Tensor | None) -> Local:
    mask = torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device) if mask is None else mask.bool()
    # what is under the mask may be anything: it must not turn into NaN
    with torch.autocast(parts.device.type, enabled=False):
        features = head(torch.where(mask[:, :, None], parts.float(), 0.0))
    return Local.of(features, mask)
