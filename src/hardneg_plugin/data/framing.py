"""From the views of a study to what a model sees: random crops in training, whole images in evaluation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hardneg_plugin.data.boxes import BoxTable
from hardneg_plugin.data.transforms import random_crop, reframe_boxes, resize_to_square
from hardneg_plugin.errors import UserError


class Framing:
    """Frames views, and their boxes where the data set has boxes.

    Args:
        resize: pixels of the shorter side before the random crop of training.
        crop: pixels of the square that a model sees; at most `resize`.
        boxes: the file of boxes (`BoxTable`); None: no boxes.

    Raises:
        UserError: `crop` is not in [1, `resize`], or the file of boxes is invalid.
    """

    def __init__(self, *, resize: int, crop: int, boxes: str | Path | None) -> None:
        if not 1 <= crop <= resize:
            raise UserError(f"Expected 1 <= `crop` <= `resize`, but got crop={crop} and resize={resize}.")
        self.resize, self.crop = resize, crop
        self.boxes = None if boxes is None else BoxTable(boxes)

    def frame(self, study: str, views: Sequence[Tensor], seed: int | None) -> tuple[Tensor, Tensor | None]:
        """The images of a study as a model sees them, and the boxes in them.

        Args:
            study: its id.
            views: `(1, H, W)` uint8 each; H and W may differ.
            seed: draws a crop for each view; None: whole images.

        Returns:
            `(V, 1, crop, crop)` uint8, and `(V, R, 4)`, None without boxes.
        """
        if seed is None:
            framed = [resize_to_square(view, crop=self.crop) for view in views]
        else:
            # A separate generator: the crops depend neither on the worker nor on earlier draws.
            draw = torch.Generator().manual_seed(seed)
            framed = [random_crop(view, resize=self.resize, crop=self.crop, generator=draw) for view in views]
        images, frames = zip(*framed, strict=True)
        boxes = None
        if self.boxes is not None:
            boxes = reframe_boxes(torch.from_numpy(self.boxes.of(study, len(views)).copy()), torch.tensor(frames))
        return torch.stack(images), boxes
