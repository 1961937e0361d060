"""The losses of GK-MVLP beside the contrast: negatives drawn by similarity, entities, and statements of single findings.

A prompt is an entity and its place; its two statements say that it is present, and that it is absent. Reconstructed after GK-MVLP
(Deng et al., Biomedical Signal Processing and Control, arXiv 2404.14750), whose formulas were not available.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.functional.pooling import mean_where

FLOOR = 1e-4
"""Added to the probability of each pair, so that every pair may be drawn."""


def draw_negatives(logits: Tensor, is_match: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a negative for each row, by `softmax(logits) + 1e-4` over the columns that do not match it.

    Args:
        logits: `(B, N)` scaled similarities.
        is_match: `(B, N)` bool; the positives are among the matches.
        noise: `(B, N)` from the exponential distribution of mean 1; the same noise draws the same columns.

    Returns:
        Columns `(B,)` int64, and `(B,)` bool: False where every column matches.
    """
    weights = (logits.softmax(-1) + FLOOR).masked_fill(is_match, 0.0)
    # the first of independent arrivals at these rates: a draw by the weights
    return (weights / noise).argmax(-1), ~is_match.all(-1)


def entity_loss(logits: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of present and absent, the mean over the known prompts.

    Args:
        logits: `(B, Q)`, above 0 for present.
        facts: `(B, Q)`: 1 present, 0 absent, -1 unknown.

    Returns:
        `(B,)`, 0 for a study of which nothing is known.
    """
    return mean_where(
        F.binary_cross_entropy_with_logits(logits, (facts == 1).to(logits.dtype), reduction="none"), facts >= 0
    )


def statement_loss(
    images: Tensor, statements: Tensor, facts: Tensor, is_swap: Tensor, *, logit_scale: Tensor | float
) -> Tensor:
    """Contrast true statements with false ones that differ in one word.

    `-log( e^{s z·t} / (e^{s z·t} + Σ e^{s z·t'}) )`. A present prompt is contrasted with its denial and with the same entity at
    places where it is absent; an absent prompt with the statement that it is present. Present and absent prompts count half each,
    though there are far more absent ones; unknown prompts are left out.

    Args:
        images: z, `(B, D)`, unit length.
        statements: `(2, Q, D)`, unit length: that each prompt is absent, and that it is present.
        facts: `(B, Q)`: 1 present, 0 absent, -1 unknown.
        is_swap: `(Q, Q)` bool: which prompts are of the same entity at another place.
        logit_scale: s.

    Returns:
        `(B,)`.
    """
    absent, present = logit_scale * torch.einsum("bd,aqd->abq", images, statements)
    # (B, Q, Q): each prompt against the statements of all prompts, of which the false swaps stay
    is_false_swap = is_swap & (facts == 0)[:, None]
    swapped = present[:, None].expand(-1, present.shape[1], -1).masked_fill(~is_false_swap, -torch.inf)
    others = torch.cat([absent[..., None], swapped], dim=-1).logsumexp(-1)
    of_present = F.softplus(others - present)
    of_absent = F.softplus(present - absent)
    sides = [mean_where(of_present, facts == 1), mean_where(of_absent, facts == 0)]
    known = [(facts == value).any(-1) for value in (1, 0)]
    count = (known[0].to(images.dtype) + known[1]).clamp_min(1)
    return (sides[0] + sides[1]) / count
