"""Image transforms of training and evaluation. Never a flip: a mirrored chest has its heart on the wrong side."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def random_crop(image: Tensor, *, resize: int, crop: int, generator: torch.Generator) -> Tensor:
    """Training: the shorter side resized to `resize`, then a square of `crop` pixels from a random place.

    Args:
        image: `(1, H, W)` uint8.
        resize: pixels, at least `crop`.
        crop: pixels.
        generator: the only source of randomness; two draws are taken from it.

    Returns:
        `(1, crop, crop)` uint8.

    Raises:
        ValueError: if `crop` exceeds `resize`.
    """
    if crop > resize:
        raise ValueError(f"Expected `crop` of at most `resize`, but got {crop} and {resize}.")
    resized: Tensor = F.resize(image, [resize], antialias=True)
    height, width = resized.shape[-2:]
    top = int(torch.randint(height - crop + 1, (), generator=generator))
    left = int(torch.randint(width - crop + 1, (), generator=generator))
    return resized[..., top : top + crop, left : left + crop]


def whole(image: Tensor, *, crop: int) -> Tensor:
    """Evaluation: all of the image, resized to a square whatever its aspect, as the released systems do.

    Args:
        image: `(1, H, W)` uint8.
        crop: pixels.

    Returns:
        `(1, crop, crop)` uint8.
    """
    resized: Tensor = F.resize(image, [crop, crop], antialias=True)
    return resized
