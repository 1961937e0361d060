"""Image transforms of training and evaluation. Never a flip: a mirrored chest has its heart on the wrong side."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Frame = tuple[float, float, float, float]
"""The visible part of an image: top, left, bottom and right in shares of its height and width."""


def random_crop(image: Tensor, *, resize: int, crop: int, generator: torch.Generator) -> tuple[Tensor, Frame]:
    """Training: the shorter side resized to `resize`, then a square of `crop` pixels from a random place.

    Args:
        image: `(1, H, W)` uint8.
        resize: pixels, at least `crop`.
        crop: pixels.
        generator: the only source of randomness; two numbers are drawn.

    Returns:
        `(1, crop, crop)` uint8, and its frame.

    Raises:
        ValueError: `crop` exceeds `resize`.
    """
    if crop > resize:
        raise ValueError(f"Expected `crop` <= `resize`, but got {crop} and {resize}.")
    resized: Tensor = F.resize(image, [resize], antialias=True)
    height, width = resized.shape[-2:]
    top = int(torch.randint(height - crop + 1, (), generator=generator))
    left = int(torch.randint(width - crop + 1, (), generator=generator))
    frame = (top / height, left / width, (top + crop) / height, (left + crop) / width)
    return resized[..., top : top + crop, left : left + crop], frame


def resize_to_square(image: Tensor, *, crop: int) -> tuple[Tensor, Frame]:
    """Evaluation: the whole image, resized to a square whatever its aspect, as the released systems do.

    Args:
        image: `(1, H, W)` uint8.
        crop: pixels.

    Returns:
        `(1, crop, crop)` uint8, and its frame.
    """
    resized: Tensor = F.resize(image, [crop, crop], antialias=True)
    return resized, (0.0, 0.0, 1.0, 1.0)


def reframe_boxes(boxes: Tensor, frames: Tensor) -> Tensor:
    """Boxes in shares of the image as boxes in shares of a frame of it, below 0 or above 1 where they leave the frame.

    Args:
        boxes: `(V, R, 4)` as (top, left, bottom, right) in shares of the image.
        frames: `(V, 4)`, likewise.

    Returns:
        `(V, R, 4)`.

    >>> reframe_boxes(torch.tensor([[[0.25, 0.5, 0.75, 1.0]]]), torch.tensor([[0.5, 0.0, 1.0, 1.0]]))
    tensor([[[-0.5000,  0.5000,  0.5000,  1.0000]]])
    """
    start = frames[:, None, :2]
    extent = frames[:, None, 2:] - start
    return (boxes - start.repeat(1, 1, 2)) / extent.repeat(1, 1, 2)
