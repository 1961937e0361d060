"""Contrasts with sentences about single findings: which pair to tell apart, and the minimal change that makes one false.

A prompt is an entity, and where it is. Its statements say that it is there, or that it is not. Reconstructed after GK-MVLP (Deng et
al., Biomedical Signal Processing and Control, arXiv 2404.14750), whose formulas were not available: what is here is ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-4
"""Added to each pair's probability, so that no pair is never drawn."""


def draw_negatives(logits: Tensor, is_match: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """For each row a column that does not match it, likely one that is similar: by `softmax(logits) + 1e-4`, matches 0.

    Args:
        logits: `(B, N)` scaled similarities.
        is_match: `(B, N)` bool; the own pair among them.
        noise: `(B, N)` drawn from the exponential distribution of mean 1: the same noise gives the same columns.

    Returns:
        Columns `(B,)` int64, and whether there was one `(B,)` bool.
    """
    weights = (logits.softmax(-1) + FLOOR).masked_fill(is_match, 0.0)
    # the first of independent arrivals at these rates: a draw by the weights
    return (weights / noise).argmax(-1), ~is_match.all(-1)


def entity_loss(logits: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of present and absent over the prompts of which it is known, their mean: `(B,)`.

    Args:
        logits: `(B, Q)`, above 0 for present.
        facts: `(B, Q)`: 1 present, 0 absent, -1 unknown.

    A study of which nothing is known counts 0.
    """
    return _mean_where(
        F.binary_cross_entropy_with_logits(logits, (facts == 1).to(logits.dtype), reduction="none"), facts >= 0
    )


def statement_loss(
    images: Tensor, statements: Tensor, facts: Tensor, is_swap: Tensor, *, logit_scale: Tensor | float
) -> Tensor:
    """True statements against the same with one word changed: `(B,)`.

    A prompt that is present is contrasted with its denial and with the same entity at places where it is not; one that is absent
    with its statement: `-log( e^{s z·t} / (e^{s z·t} + Σ e^{s z·t'}) )`. Half of a study's loss is of its present prompts, half
    of its absent ones, of which there are far more; prompts of which nothing is known are left out.

    Args:
        images: z, `(B, D)`, unit length.
        statements: `(2, Q, D)`, unit length: that each prompt is absent, that it is present.
        facts: `(B, Q)`: 1 present, 0 absent, -1 unknown.
        is_swap: `(Q, Q)` bool: which prompts are of the same entity at another place.
        logit_scale: s.
    """
    absent, present = logit_scale * torch.einsum("bd,aqd->abq", images, statements)
    # (B, Q, Q): what is stated of a prompt against all prompts' statements, of which the swapped that are false stay
    is_false_swap = is_swap & (facts == 0)[:, None]
    swapped = present[:, None].expand(-1, present.shape[1], -1).masked_fill(~is_false_swap, -torch.inf)
    others = torch.cat([absent[..., None], swapped], dim=-1).logsumexp(-1)
    of_present = F.softplus(others - present)
    of_absent = F.softplus(present - absent)
    sides = [_mean_where(of_present, facts == 1), _mean_where(of_absent, facts == 0)]
    known = [(facts == value).any(-1) for value in (1, 0)]
    count = (known[0].to(images.dtype) + known[1]).clamp_min(1)
    return (sides[0] + sides[1]) / count


def _mean_where(values: Tensor, kept: Tensor) -> Tensor:
    return (values * kept).sum(-1) / kept.sum(-1).clamp_min(1)
