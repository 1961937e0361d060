"""One image file as a grayscale tensor, or an error that says why it cannot be read."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hardneg_plugin.data.dicom import is_dicom, read_dicom
from hardneg_plugin.errors import UserError

MAX_ASPECT = 10
"""Longer over shorter side; a longer strip is not a radiograph, and resizing its shorter side could fill the memory."""


def read_grayscale(path: Path, *, shorter_side: int | None = None) -> Tensor:
    """Read a PNG, JPEG or DICOM, recognised by its content, not its name.

    Colour becomes luminance, transparency is ignored, an EXIF orientation is applied. 16-bit values are scaled to 0..255
    by the image's own minimum and maximum, because radiographs of 10 to 14 bits are commonly stored in 16-bit files. A
    DICOM is shown as `read_dicom` says.

    Args:
        path: the file.
        shorter_side: pixels needed, > 0; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never below this.

    Returns:
        `(1, H, W)` uint8.

    Raises:
        UserError: the file is missing, truncated, none of the three, beyond Pillow's limit on decompression, a strip of
            more than 10:1, or a DICOM that `read_dicom` refuses.
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
        reason = str(error) or type(error).__name__
        raise UserError(
            f"Expected a whole PNG, JPEG or DICOM, but {path} cannot be read ({reason}). Replace it, or remove its study."
        ) from error
    _check_aspect(pixels.shape[1], pixels.shape[0], path)
    return torch.from_numpy(pixels)[None]


def _read_picture(file: BinaryIO, path: Path, shorter_side: int | None) -> NDArray[np.uint8]:
    with Image.open(file, formats=("PNG", "JPEG")) as image:
        _check_aspect(image.width, image.height, path)
        if shorter_side is not None:
            image.draft(None, (shorter_side, shorter_side))
        return _to_uint8(ImageOps.exif_transpose(image))


def _check_aspect(width: int, height: int, path: Path) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"Expected an image of at most {MAX_ASPECT}:1, but {path} has {width} x {height} pixels.")


def _to_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        low, high = values.min(), values.max()
        scaled: NDArray[np.uint8] = ((values - low) * (255.0 / max(high - low, 1.0))).round().astype(np.uint8)
        return scaled
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette with transparency warns on its way to "L"
    return np.array(image.convert("L"))
