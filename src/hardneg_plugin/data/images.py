"""One image file as a grayscale tensor, or an error that says why it cannot be read."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hardneg_plugin.data.dicom import is_dicom, read_dicom
from hardneg_plugin.data.image_limits import MAX_PIXELS, check_size
from hardneg_plugin.data.png16 import is_deep_colour, read_deep_png
from hardneg_plugin.errors import UserError

_ROWS = 256
"""Rows of an image that are scaled at a time."""


def read_grayscale(path: Path, *, shorter_side: int | None = None) -> Tensor:
    """Read a PNG, JPEG or DICOM, recognised by its content, not its name.

    Colour becomes luminance, transparency is ignored, an EXIF orientation is applied. 16-bit values, in one channel or
    several, are scaled to 0..255 by the image's own minimum and maximum, because radiographs of 10 to 14 bits are commonly
    stored in 16-bit files. A DICOM is shown as `read_dicom` says.

    Args:
        path: the file.
        shorter_side: pixels needed, > 0; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never below this.

    Returns:
        `(1, H, W)` uint8.

    Raises:
        UserError: the file is missing, truncated, none of the three, of more than `MAX_PIXELS` pixels (half of it with several
            channels of 16 bits), a strip of more than 10:1, or a DICOM that `read_dicom` refuses.
    """
    try:
        with path.open("rb") as file:
            dicom = is_dicom(file.read(132))
            file.seek(0)
            pixels = read_dicom(path) if dicom else _read_picture(file, path, shorter_side)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"Expected a PNG, JPEG or DICOM, but {path} is none of them by its content. Convert it, or remove its study."
        ) from error
    except Exception as error:  # broken bytes make Pillow raise OSError, SyntaxError, struct.error and others
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"Expected a whole PNG, JPEG or DICOM, but {path} cannot be read ({reason}). Replace it, or remove its study."
        ) from error
    return torch.from_numpy(pixels)[None]


def _read_picture(file: BinaryIO, path: Path, shorter_side: int | None) -> NDArray[np.uint8]:
    is_deep = is_deep_colour(file)
    with Image.open(file, formats=("PNG", "JPEG")) as image:
        check_size(image.width, image.height, path, at_most=MAX_PIXELS // 2 if is_deep else MAX_PIXELS)
        if is_deep:
            file.seek(0)
            return _scaled(_turned(read_deep_png(file), image))
        if shorter_side is not None:
            image.draft(None, (shorter_side, shorter_side))
        ImageOps.exif_transpose(image, in_place=True)
        return _to_uint8(image)


def _turned(pixels: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Pixels by the EXIF orientation of their file."""
    turned = Image.fromarray(pixels)
    turned.info["exif"] = image.info.get("exif", b"")
    ImageOps.exif_transpose(turned, in_place=True)
    return np.asarray(turned)


def _to_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return _scaled(np.asarray(image))
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette with transparency warns on its way to "L"
    return np.array(image.convert("L"))


def _scaled(values: NDArray[Any]) -> NDArray[np.uint8]:
    """The own range of an image as 0 to 255."""
    low, high = np.float32(values.min()), np.float32(values.max())
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        scaled[rows] = ((values[rows].astype(np.float32) - low) * (255.0 / max(high - low, 1.0))).round()
    return scaled
