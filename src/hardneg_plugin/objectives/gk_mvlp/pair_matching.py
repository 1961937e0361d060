"""Pair matching: an encoder that scores whether a report belongs to an image, and its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardneg_plugin.functional.entity_losses import draw_negatives
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.objectives.batch import EmbeddedBatch
from hardneg_plugin.objectives.local_features import LocalFeatures


class PairEncoder(nn.Module):
    """Words that attend to one another and to the regions of an image, and one score for the pair.

    Args:
        width: D, of words and regions, a multiple of `heads`.
        heads: of each attention.
        layers: a positive integer.
    """

    def __init__(self, width: int, *, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)

    def forward(self, words: LocalFeatures, regions: LocalFeatures) -> Tensor:
        """The logits `(M,)` of M pairs, above 0 for a report that belongs to the image.

        Args:
            words: `(M, W, D)`.
            regions: `(M, P, D)`.
        """
        x = words.features
        padding, missing = _left_out(words.mask), _left_out(regions.mask)
        for layer in self.layers:
            x = layer(x, regions.features, tgt_key_padding_mask=padding, memory_key_padding_mask=missing)
        logits: Tensor = self.score(self.norm(masked_mean(x, words.mask))).squeeze(-1)
        return logits


class PairMatchingLoss(nn.Module):
    """Cross-entropy of each study's pair and two negative ones (ITM).

    A negative report is drawn for each image, and a negative image for each report, by the similarities of the whole embeddings of
    all ranks (`draw_negatives`). The draws of a step depend on its number alone.

    Args:
        width, heads, layers: as of `PairEncoder`.
    """

    def __init__(self, width: int, *, heads: int, layers: int) -> None:
        super().__init__()
        self.encoder = PairEncoder(width, heads=heads, layers=layers)

    def forward(
        self, batch: EmbeddedBatch, words: LocalFeatures, regions: LocalFeatures, logit_scale: Tensor
    ) -> Tensor:
        """The loss of each local study `(B,)`.

        Args:
            batch: of B local studies.
            words, regions: of the local studies.
            logit_scale: of the similarities by which negatives are drawn.
        """
        noise = _noise(batch)
        scale = logit_scale.detach()
        losses = [F.softplus(-self.encoder(words, regions))]
        for side, (anchors, candidates) in enumerate(
            ((batch.images, batch.all_reports), (batch.reports, batch.all_images))
        ):
            logits = (scale * (anchors @ candidates.T).detach()).masked_fill(~batch.all_usable, -torch.inf)
            index, has_one = draw_negatives(logits, batch.is_match, noise[side, batch.shards.local])
            if side == 0:
                pair = self.encoder(_picked(words.gathered(batch.shards), index), regions)
            else:
                pair = self.encoder(words, _picked(regions.gathered(batch.shards), index))
            losses.append(torch.where(has_one, F.softplus(pair), 0.0))
        return torch.stack(losses).mean(0)


def _noise(batch: EmbeddedBatch) -> Tensor:
    """`(2, N, N)` from the exponential distribution, the same on every rank."""
    count = len(batch.all_images)
    generator = torch.Generator().manual_seed(batch.progress.step)
    drawn = torch.empty(2, count, count).exponential_(generator=generator)
    return drawn.to(batch.images.device, non_blocking=True)


def _picked(local: LocalFeatures, index: Tensor) -> LocalFeatures:
    return LocalFeatures(local.features[index], local.mask[index], local.whole[index])


def _left_out(mask: Tensor) -> Tensor:
    """The padding that attention leaves out; none where everything is padding, as a softmax needs something."""
    return ~mask & mask.any(-1, keepdim=True)
