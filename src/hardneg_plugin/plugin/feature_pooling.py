"""Features of a host as one vector per study, and as the parts of which that is the mean."""

from typing import Any

from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.pooling import masked_mean


def pool(features: Any, mask: Any, kind: str) -> Tensor:
    """One vector per study, `(B, D)`.

    Args:
        features: floating point; `(B, D)` as is, `(B, T, D)` averaged over positions, `(B, C, H, W)` over space.
        mask: `(B, T)` bool or 0/1, True where a position of `(B, T, D)` counts; None: all do.
        kind: "image" or "report", for messages.

    Raises:
        UserError: other shapes, or a mask that does not fit.
    """
    remedy = f"{kind}s=lambda batch, outputs: ..."
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise UserError(
            f"Expected {kind} features as a tensor of floats, but got {kind_of(features)}: pick out of it by a key "
            f"or an index after the path, or give a callable, {remedy}."
        )
    shape = tuple(features.shape)
    if len(shape) not in (2, 3, 4):
        raise UserError(
            f"Expected {kind} features (B, D), (B, T, D) or (B, C, H, W), but got {shape}: give a callable that makes "
            f"(B, D) of them, {remedy}."
        )
    if mask is None:
        return features if len(shape) == 2 else features.mean(dim=1 if len(shape) == 3 else (2, 3))
    if len(shape) != 3:
        raise UserError(f"{kind}_mask goes with features (B, T, D), but they are {shape}: leave it out.")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != shape[0]:
        raise UserError(f"Expected {kind}_mask ({shape[0]}, {shape[1]}) for features {shape}, but got {kind_of(mask)}.")
    if mask.shape[1] != shape[1]:
        raise UserError(
            f"{kind}_mask has {mask.shape[1]} positions, but the features {shape} have {shape[1]}. Where a decoder has no "
            f'state for the first token: {kind}_mask=lambda batch, outputs: batch["mask"][:, 1:]. Where the text ends a longer '
            f'output: {kind}s=Feature(path, align="right").'
        )
    return masked_mean(features, mask)


def parts(features: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The parts that `pool` averages, and their mask; None for features `(B, D)` without parts.

    Args:
        features: `(B, T, D)`, as is, or `(B, C, H, W)`, as `(B, H W, C)`.
        mask: `(B, T)` bool or 0/1.
    """
    if features.ndim == 2:
        return None, None
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2), None
    return features, None if mask is None else mask.bool()


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
