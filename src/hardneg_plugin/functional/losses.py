"""Alignment losses of images and reports, one value per study; the caller reduces.

Embeddings are unit length. `hard` stands for extra columns of one's own: hard negatives, hardened ones, or both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    *,
    logit_scale: Tensor | float,
    first: int = 0,
    is_match: Tensor | None = None,
    hard: Tensor | None = None,
    hard_weight: Tensor | None = None,
) -> Tensor:
    """InfoNCE with false negatives left out and weighted extra negatives per anchor: `(B,)`.

    `-log( e^{s a_i·c_p} / ( Σ_j keep_ij e^{s a_i·c_j} + Σ_k w_ik e^{s a_i·h_ik} ) )`, where candidate p = first + i is anchor
    i's own.

    Args:
        anchors: `(B, D)`.
        candidates: `(N, D)`, N >= first + B.
        logit_scale: s, the inverse temperature.
        first: the candidate that is the first anchor's own; the others' follow it.
        is_match: `(B, N)` bool, pairs that must not count as negatives; the own pair always stays.
        hard: `(B, K, D)` negatives of each anchor alone.
        hard_weight: `(B, K)` >= 0, w; 0 leaves a column out. None: all 1.

    Source: reconstructed from the abstract of ITHN (ECAI 2023).

    >>> one = torch.eye(2)[:1]
    >>> info_nce(one, one, logit_scale=10.0, hard=one[:, None])  # a negative equal to the positive: log 2
    tensor([0.6931])
    """
    return info_nce_of_logits(
        logit_scale * (anchors @ candidates.T),
        first=first,
        is_match=is_match,
        hard=None if hard is None else logit_scale * torch.einsum("bd,bkd->bk", anchors, hard),
        hard_weight=hard_weight,
    )


def info_nce_of_logits(
    logits: Tensor,
    *,
    first: int = 0,
    is_match: Tensor | None = None,
    hard: Tensor | None = None,
    hard_weight: Tensor | None = None,
) -> Tensor:
    """`info_nce` where pairs are scored by something else than a product of embeddings: `(B,)`.

    Args:
        logits: `(B, N)` scores of anchors and candidates, scaled.
        first, is_match, hard_weight: as of `info_nce`.
        hard: `(B, K)` scores of further negatives, scaled.
    """
    rows = torch.arange(len(logits), device=logits.device)
    own = first + rows
    if is_match is not None:
        drop = is_match.clone()
        drop[rows, own] = False
        logits = logits.masked_fill(drop, -torch.inf)
    if hard is not None:
        columns = hard if hard_weight is None else hard + hard_weight.to(hard.dtype).log()
        logits = torch.cat([logits, columns], dim=1)
    return F.cross_entropy(logits, own, reduction="none")


def triplet(anchors: Tensor, positives: Tensor, hard: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Hinge `max(0, margin - a·p + a·h)`, mean over the K negatives that count: `(B,)`.

    Anchors and positives `(B, D)`, hard `(B, K, D)`, valid `(B, K)` bool. 0 where a study has no negative.
    """
    gap = torch.einsum("bd,bkd->bk", anchors, hard) - (anchors * positives).sum(-1, keepdim=True)
    return _mean_over_valid(F.relu(margin + gap), valid)


def separation(images: Tensor, negative_images: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Hinge `max(0, z·z' - margin)` between an image and those of its hard negatives, mean over K: `(B,)`.

    Images `(B, D)`, negative images `(B, K, D)`, valid `(B, K)` bool. 0 where a study has no negative.
    """
    return _mean_over_valid(F.relu(torch.einsum("bd,bkd->bk", images, negative_images) - margin), valid)


def absolute_separation(images: Tensor, negative_images: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """`|z·z'|`, mean over K: `(B,)`; the released ITHN code's term. Shapes as in `separation`."""
    return _mean_over_valid(torch.einsum("bd,bkd->bk", images, negative_images).abs(), valid)


def released_alignment(
    images: Tensor,
    reports: Tensor,
    negative_images: Tensor,
    hard_negatives: Tensor,
    hardened: Tensor,
    *,
    pair_scale: Tensor | float,
    hardened_scale: Tensor | float,
) -> Tensor:
    """The released ITHN code's contrastive loss, for comparison with it: `(B,)`; all inputs `(B, D)`.

    `M = (T1 z uᵀ + T1 z' nᵀ - diag(T3 z·ñ)) / 3`, then the mean of the cross-entropies of row i and of column i.
    """
    own = torch.arange(len(images), device=images.device)
    pairs = images @ reports.T + negative_images @ hard_negatives.T
    logits = (pair_scale * pairs - torch.diag(hardened_scale * (images * hardened).sum(-1))) / 3
    return (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2


def _mean_over_valid(loss: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return loss.mean(dim=1)
    return (loss * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)
