"""One image file as a grayscale tensor, or one line that says why it cannot be."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from hardneg_plugin.errors import UserError

MAX_ASPECT = 10
"""Longer over shorter side; a strip beyond this is no radiograph, and resizing its shorter side could fill the memory."""


def read_grayscale(path: Path, *, shorter_side: int | None = None) -> Tensor:
    """Read a PNG or JPEG.

    Colour becomes luminance, transparency is ignored, an EXIF orientation is applied. 16-bit values are scaled to 0..255
    by the image's own minimum and maximum, because radiographs of 10 to 14 bits are commonly stored in 16-bit files.

    Args:
        path: the file.
        shorter_side: pixels needed; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never below this.

    Returns:
        `(1, H, W)` uint8.

    Raises:
        UserError: if the file is missing, truncated, not a PNG or JPEG, beyond Pillow's limit on decompression, or a
            strip of more than 10:1.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise UserError(
                    f"Expected an image of at most {MAX_ASPECT}:1, but {path} has {width} x {height} pixels."
                )
            if shorter_side is not None:
                image.draft(None, (shorter_side, shorter_side))
            pixels = _to_uint8(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except (
        Exception
    ) as error:  # broken bytes make Pillow raise half a dozen kinds: OSError, SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise UserError(
            f"Expected a whole PNG or JPEG, but {path} cannot be read ({reason}). Replace it, or remove its study."
        ) from error
    return torch.from_numpy(pixels)[None]


def _to_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        low, high = values.min(), values.max()
        scaled: NDArray[np.uint8] = ((values - low) * (255.0 / max(high - low, 1.0))).round().astype(np.uint8)
        return scaled
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette with transparency warns on its way to "L"
    return np.array(image.convert("L"))
