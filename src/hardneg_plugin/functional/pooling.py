"""Averages that leave padding out."""

import torch
from torch import Tensor


def mean_where(values: Tensor, kept: Tensor | None) -> Tensor:
    """Mean over the last dimension, of the values that count.

    Args:
        values: `(..., K)`, finite.
        kept: `(..., K)` bool, True where a value counts; None: all do.

    Returns:
        `(...)`, 0 where no value counts.

    >>> mean_where(torch.tensor([[1.0, 3.0], [1.0, 3.0]]), torch.tensor([[True, True], [True, False]]))
    tensor([2., 1.])
    """
    if kept is None:
        return values.mean(-1)
    return (values * kept).sum(-1) / kept.sum(-1).clamp_min(1)


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions that count.

    Args:
        features: `(B, T, D)`.
        mask: `(B, T)` bool or 0/1, True where a position counts.

    Returns:
        `(B, D)`; a row in which no position counts is zero.

    Raises:
        ValueError: shapes that do not fit.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if features.ndim != 3 or mask.shape != features.shape[:2]:
        raise ValueError(
            "Expected `features` of shape (B, T, D) and `mask` of shape (B, T), "
            f"but got {tuple(features.shape)} and {tuple(mask.shape)}."
        )
    kept = mask.to(features.dtype)[:, :, None]
    # where, not a product: an infinite value under the mask must not turn into NaN
    total = torch.where(kept > 0, features, torch.zeros_like(features)).sum(dim=1)
    return total / kept.sum(dim=1).clamp_min(1)
