"""Whether a report is of an image: an encoder of both together, and the pairs that it learns from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardneg_plugin.functional.entity_losses import draw_negatives
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.objectives.batch import EmbeddedBatch
from hardneg_plugin.objectives.local_features import LocalFeatures


class PairEncoder(nn.Module):
    """Words that attend to one another and to an image's regions, and one score for the pair.

    Args:
        width: D, of words and regions, a multiple of `heads`.
        heads: of each attention.
        layers: at least 1.
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
        """Pairs `(M, W, D)` and `(M, P, D)` to logits `(M,)`, above 0 for a match."""
        x = words.features
        padding, missing = _left_out(words.mask), _left_out(regions.mask)
        for layer in self.layers:
            x = layer(x, regions.features, tgt_key_padding_mask=padding, memory_key_padding_mask=missing)
        logits: Tensor = self.score(self.norm(masked_mean(x, words.mask))).squeeze(-1)
        return logits


class PairMatchingLoss(nn.Module):
    """Cross-entropy of match and mismatch over each study's own pair and two drawn ones (ITM).

    For each image a report is drawn that does not match it, likely a similar one, and for each report an image; by the
    similarities of the whole embeddings over all ranks. The draws of a step depend on its number alone.

    Args:
        width, heads, layers: of `PairEncoder`.
    """

    def __init__(self, width: int, *, heads: int, layers: int) -> None:
        super().__init__()
        self.encoder = PairEncoder(width, heads=heads, layers=layers)

    def forward(
        self, batch: EmbeddedBatch, words: LocalFeatures, regions: LocalFeatures, logit_scale: Tensor
    ) -> Tensor:
        """The loss of each own study `(B,)`; words and regions are the own ones."""
        noise = _noise(batch)
        scale = logit_scale.detach()
        losses = [F.softplus(-self.encoder(words, regions))]
        for side, (anchors, candidates) in enumerate(
            ((batch.images, batch.all_reports), (batch.reports, batch.all_images))
        ):
            index, has_one = draw_negatives(
                scale * (anchors @ candidates.T).detach(), batch.is_match, noise[side, batch.shards.local]
            )
            if side == 0:
                pair = self.encoder(_picked(words.gathered(batch.shards), index), regions)
            else:
                pair = self.encoder(words, _picked(regions.gathered(batch.shards), index))
            losses.append(torch.where(has_one, F.softplus(pair), 0.0))
        return torch.stack(losses).mean(0)


def _noise(batch: EmbeddedBatch) -> Tensor:
    """`(2, N, N)` from the exponential distribution, the same on every rank, whose own random numbers differ."""
    count = len(batch.all_images)
    generator = torch.Generator().manual_seed(batch.progress.step)
    return torch.empty(2, count, count).exponential_(generator=generator).to(batch.images.device)


def _picked(local: LocalFeatures, index: Tensor) -> LocalFeatures:
    return LocalFeatures(local.features[index], local.mask[index], local.whole[index])


def _left_out(mask: Tensor) -> Tensor:
    """What attention leaves out; nothing where there is nothing else, as a softmax needs something."""
    return ~mask & mask.any(-1, keepdim=True)
