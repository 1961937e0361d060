"""PNG of 16 bits in several channels: Pillow gives the upper 8 of them, so it is asked for the lower ones, too."""

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HEAD = 33
"""Bytes of a PNG up to the end of its first chunk, which has bits and kind of colour at 24 and 25, and a checksum at its end."""
_GRAY_ALPHA = 4
_MODES = {2: "RGB", 6: "RGBA"}
_LUMINANCE = np.array([0.299, 0.587, 0.114, 0], np.float32)
_ROWS = 256


def is_deep_colour(file: BinaryIO) -> bool:
    """Whether a file is a PNG of 16 bits in several channels; it is read from its beginning, and left there."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    return len(head) == _HEAD and head[1:4] == b"PNG" and head[24] == 16 and head[25] in (_GRAY_ALPHA, *_MODES)


def read_deep_png(file: BinaryIO) -> NDArray[np.uint16]:
    """The gray or the luminance of such a PNG; transparency is ignored.

    Args:
        file: at its beginning.

    Returns:
        `(H, W)`.

    Raises:
        Exception: whatever Pillow raises of broken bytes.
    """
    total = np.zeros(0, np.float32)
    for image, weights in _bytes_of(file):
        if not total.size:
            total = np.zeros((image.height, image.width), np.float32)
        for top in range(0, image.height, _ROWS):
            part = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
            total[top : top + _ROWS] += part.astype(np.float32) @ weights[: part.shape[-1]]
    luminance: NDArray[np.uint16] = total.round().astype(np.uint16)
    return luminance


def _bytes_of(file: BinaryIO) -> Iterator[tuple[Image.Image, NDArray[np.float32]]]:
    """Images of 8 bits, with what each of their channels counts."""
    head = bytearray(file.read(_HEAD))
    if head[25] == _GRAY_ALPHA:
        # the same bytes as of 8 bits in four channels: upper and lower half of gray, then those of alpha
        head[24:26] = (8, 6)
        head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
        with Image.open(io.BytesIO(head + file.read()), formats=("PNG",)) as image:
            yield image, np.array([256, 1, 0, 0], np.float32)
        return
    for order, weight in (
        ("B", 256),
        ("L", 1),
    ):  # the bytes are in the order "B": as "L" the lower one is taken for the upper
        file.seek(0)
        with Image.open(file, formats=("PNG",)) as image:
            image.tile = [(*tile[:3], f"{_MODES[head[25]]};16{order}") for tile in image.tile]  # type: ignore[misc]
            yield image, weight * _LUMINANCE
