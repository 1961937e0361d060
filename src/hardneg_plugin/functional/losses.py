"""Losses of images and reports, one value per study; the caller reduces. Embeddings are of unit length."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.functional.pooling import mean_where


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
    """InfoNCE with matches left out and weighted extra negatives per anchor.

    `-log( e^{s a_i·c_p} / ( Σ_j keep_ij e^{s a_i·c_j} + Σ_k w_ik e^{s a_i·h_ik} ) )`, where candidate p = first + i is the
    positive of anchor i.

    Args:
        anchors: `(B, D)`.
        candidates: `(N, D)`, N >= first + B.
        logit_scale: s, the inverse temperature.
        first: the candidate that is the positive of the first anchor; those of the other anchors follow it.
        is_match: `(B, N)` bool, pairs that must not count as negatives; the positive always counts.
        hard: `(B, K, D)` negatives of each anchor alone, hard or hardened.
        hard_weight: w, `(B, K)` >= 0; 0 leaves a column out. None: all 1.

    Returns:
        `(B,)`.

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
    """`info_nce` of pairs that are scored by something other than a product of embeddings.

    Args:
        logits: `(B, N)` scores of anchors and candidates, scaled.
        first, is_match, hard_weight: as of `info_nce`.
        hard: `(B, K)` scores of extra negatives, scaled.

    Returns:
        `(B,)`.
    """
    positives = torch.arange(first, first + len(logits), device=logits.device)
    if is_match is not None:
        drop = is_match.clone()
        drop.diagonal(first).fill_(False)
        logits = logits.masked_fill(drop, -torch.inf)
    if hard is not None:
        columns = hard if hard_weight is None else hard + hard_weight.to(hard.dtype).log()
        logits = torch.cat([logits, columns], dim=1)
    return F.cross_entropy(logits, positives, reduction="none")


def triplet(anchors: Tensor, positives: Tensor, hard: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Hinge `max(0, margin - a·p + a·h)`, the mean over K negatives.

    Args:
        anchors, positives: `(B, D)`.
        hard: `(B, K, D)` negatives.
        margin: a cosine difference.
        valid: `(B, K)` bool, which negatives count; None: all.

    Returns:
        `(B,)`, 0 where no negative counts.
    """
    gap = torch.einsum("bd,bkd->bk", anchors, hard) - (anchors * positives).sum(-1, keepdim=True)
    return mean_where(F.relu(margin + gap), valid)


def separation(images: Tensor, negative_images: Tensor, *, margin: float, valid: Tensor | None = None) -> Tensor:
    """Hinge `max(0, z·z' - margin)` between an image and those of its hard negatives, the mean over K.

    Args:
        images: z, `(B, D)`.
        negative_images: z', `(B, K, D)`.
        margin: a cosine.
        valid: `(B, K)` bool, which negatives count; None: all.

    Returns:
        `(B,)`, 0 where no negative counts.
    """
    return mean_where(F.relu(torch.einsum("bd,bkd->bk", images, negative_images) - margin), valid)


def absolute_separation(images: Tensor, negative_images: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """`|z·z'|`, the mean over K: the term of the released ITHN code.

    Args:
        images, negative_images, valid: as of `separation`.
    """
    return mean_where(torch.einsum("bd,bkd->bk", images, negative_images).abs(), valid)


def released_alignment(
    images: Tensor,
    reports: Tensor,
    negative_images: Tensor,
    hard_negatives: Tensor,
    hardened: Tensor,
    *,
    pair_scale: Tensor | float,
    hardened_scale: Tensor | float,
    counts: Tensor | None = None,
) -> Tensor:
    """The contrastive loss of the released ITHN code, for comparison.

    `M = (T1 z uᵀ + T1 z' nᵀ - diag(T3 z·ñ)) / 3`, then the mean of the cross-entropies of row i and of column i.

    Args:
        images, reports, negative_images, hard_negatives, hardened: z, u, z', n and ñ, `(B, D)` each.
        pair_scale, hardened_scale: T1 and T3.
        counts: `(B,)` bool, False for studies that are left out; None: all count.

    Returns:
        `(B,)`, 0 for a study that is left out.
    """
    positives = torch.arange(len(images), device=images.device)
    pairs = images @ reports.T + negative_images @ hard_negatives.T
    logits = (pair_scale * pairs - torch.diag(hardened_scale * (images * hardened).sum(-1))) / 3
    if counts is not None:
        drop = ~(counts[:, None] & counts)
        drop.diagonal().fill_(False)
        logits = logits.masked_fill(drop, -torch.inf)
    to_report = F.cross_entropy(logits, positives, reduction="none")
    to_image = F.cross_entropy(logits.T, positives, reduction="none")
    return (to_report + to_image) / 2
