"""Vectors of unit length, without a gradient where there is no direction."""

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-6
"""A feature shorter than this counts as zero: the gradient of its direction would be above a million."""
_EPS = 1e-12  # below this F.normalize divides by a constant, and its gradient is 1e12


def has_direction(vectors: Tensor, shortest: float = SHORTEST) -> Tensor:
    """Which vectors are finite and not of length zero; no gradient, no wait for the device.

    Args:
        vectors: `(..., D)`, floating point.
        shortest: length from which on a vector counts, >= 0.

    Returns:
        `(...)` bool.

    >>> has_direction(torch.tensor([[3.0, 4.0], [0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0], [1e30, 1e30]]))
    tensor([ True, False, False, False, False])
    """
    length: Tensor = torch.linalg.vector_norm(vectors.detach().float(), dim=-1)
    return (length >= shortest) & (length < torch.inf)  # both False for NaN


def unit_length(vectors: Tensor, shortest: float = _EPS) -> Tensor:
    """Each vector divided by its length; zero, with a zero gradient, where it has no direction.

    Args:
        vectors, shortest: as of `has_direction`.

    Returns:
        `(..., D)`.

    >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0], [torch.nan, 1.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000],
            [0.0000, 0.0000]])
    """
    has_one = has_direction(vectors, shortest)[..., None]
    # twice: the forward of a row is cleaned before, its gradient after
    return F.normalize(vectors.where(has_one, 0), dim=-1).where(has_one, 0)
