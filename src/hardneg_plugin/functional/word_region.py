"""Words of a report compared with regions of an image: attention, word-region vectors, and relations between these.

Leading dimensions broadcast: words `(C, 1, W, D)` and regions `(1, N, P, D)` give all C x N pairs, `(B, K, W, D)` and
`(B, 1, P, D)` the K reports of each of B images. Reconstructed after RECLF (Li et al., IEEE TMI 2025, arXiv 2401.10501), whose
formulas were not available, with SGRAF's similarity graph and GLoRIA's word-region attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.functional.unit_length import unit_length


def word_region_attention(words: Tensor, regions: Tensor, *, scale: float, region_mask: Tensor | None = None) -> Tensor:
    """The attention of each word to the regions: `softmax_p(scale cos(t_w, v_p))`.

    Args:
        words: `(..., W, D)`.
        regions: `(..., P, D)`.
        scale: τ1, > 0; the higher, the fewer regions a word attends to.
        region_mask: `(..., P)` bool, True where there is a region; None: everywhere.

    Returns:
        `(..., W, P)`, of sum 1 over the regions; zeros for an image without a region.
    """
    logits = scale * unit_length(words) @ unit_length(regions).transpose(-1, -2)
    if region_mask is None:
        return logits.softmax(-1)
    kept = region_mask[..., None, :]
    return _masked_softmax(logits, kept)


def word_region_vectors(words: Tensor, contexts: Tensor, weight: Tensor) -> Tensor:
    """How each word differs from what it attends to: `l2(W |c - t|²)`.

    Args:
        words: t, `(..., D)`.
        contexts: c, `(..., D)`: the mean of the regions by the word's attention.
        weight: W, `(S, D)`.

    Returns:
        `(..., S)`, unit length.
    """
    return F.normalize(F.linear((contexts - words).square(), weight), dim=-1)


def reason(
    nodes: Tensor, mask: Tensor, query: Tensor, key: Tensor, value: Tensor, *, learners: int | None = None
) -> Tensor:
    """One round of reasoning among word-region vectors: `ReLU(W_r softmax((W_q S)(W_k S)ᵀ) S)`.

    Args:
        nodes: S, `(..., M, S)`.
        mask: `(..., M)` bool, True where there is a node; others are attended to by none.
        query, key, value: W_q, W_k, W_r, `(S, S)` each.
        learners: L, only the first L nodes are updated, from all M; None: all are.

    Returns:
        The updated nodes, `(..., L, S)`.
    """
    learning = nodes[..., :learners, :]
    # (W_q s)·(W_k s') as one map of s, s W_qᵀ W_k s'ᵀ: half the work of two
    edges = F.linear(learning, key.T @ query) @ nodes.transpose(-1, -2)
    return F.relu(F.linear(_masked_softmax(edges, mask[..., None, :]) @ nodes, value))


def importance(scores: Tensor, mask: Tensor) -> Tensor:
    """The weights of words by their scores: `β_w = σ(score_w) / Σ σ(score)`.

    Args:
        scores: `(..., W)`.
        mask: `(..., W)` bool, True where there is a word.

    Returns:
        `(..., W)`, of sum 1; zeros where there is no word.
    """
    weights = torch.where(mask, scores.sigmoid(), scores.new_zeros(()))
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def _masked_softmax(logits: Tensor, kept: Tensor) -> Tensor:
    # finite where nothing is kept: a row of -inf would be NaN, forward and backward
    lowest = torch.finfo(logits.dtype).min
    return torch.where(kept, logits, lowest).softmax(-1) * kept
