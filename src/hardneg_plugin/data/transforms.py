"""Image transforms of training and evaluation. Never a flip: a mirrored chest has its heart on the wrong side."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Frame = tuple[float, float, float, float]
"""What part of an image is seen: top, left, bottom and right in shares of its height and width."""


def random_crop(image: Tensor, *, resize: int, crop: int, generator: torch.Generator) -> tuple[Tensor, Frame]:
    """Training: the shorter side resized to `resize`, then a square of `crop` pixels from a random place.

    Args:
        image: `(1, H, W)` uint8.
        resize: pixels, at least `crop`.
        crop: pixels.
        generator: the only source of randomness; two draws are taken from it.

    Returns:
        `(1, crop, crop)` uint8, and which part of the image that is.

    Raises:
        ValueError: if `crop` exceeds `resize`.
    """
    if crop > resize:
        raise ValueError(f"Expected `crop` of at most `resize`, but got {crop} and {resize}.")
    resized: Tensor = F.resize(image, [resize], antialias=True)
    height, width = resized.shape[-2:]
    top = int(torch.randint(height - crop + 1, (), generator=generator))
    left = int(torch.randint(width - crop + 1, (), generator=generator))
    frame = (top / height, left / width, (top + crop) / height, (left + crop) / width)
    return resized[..., top : top + crop, left : left + crop], frame


def resize_to_square(image: Tensor, *, crop: int) -> tuple[Tensor, Frame]:
    """Evaluation: all of the image, resized to a square whatever its aspect, as the released systems do.

    Args:
        image: `(1, H, W)` uint8.
        crop: pixels.

    Returns:
        `(1, crop, crop)` uint8, and which part of the image that is.
    """
    resized: Tensor = F.resize(image, [crop, crop], antialias=True)
    return resized, (0.0, 0.0, 1.0, 1.0)


def reframe_boxes(boxes: Tensor, frames: Tensor) -> Tensor:
    """Boxes of images as boxes of what is seen of these: in shares of the frame, and beyond 0 or 1 where they leave it.

    Args:
        boxes: `(V, R, 4)` as (top, left, bottom, right) in shares of the image.
        frames: `(V, 4)`, likewise.

    >>> reframe_boxes(torch.tensor([[[0.25, 0.5, 0.75, 1.0]]]), torch.tensor([[0.5, 0.0, 1.0, 1.0]]))
    tensor([[[-0.5000,  0.5000,  0.5000,  1.0000]]])
    """
    start = frames[:, None, :2]
    extent = frames[:, None, 2:] - start
    return (boxes - start.repeat(1, 1, 2)) / extent.repeat(1, 1, 2)
