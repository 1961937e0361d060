"""From the cells of a DICOM's pixel data to stored values, and which of them are padding (PS3.5 8.1.1, PS3.3 C.7.5.1.1.2)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.data.dicom_display import first_number
from hardneg_plugin.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_Values = NDArray[Any]


def check_bits(dataset: "Dataset", path: Path, *, is_in_cells: bool) -> None:
    """Refuse a place of the bits within their cells that cannot be, or cannot be known.

    Args:
        dataset: the header.
        path: of the file, for the message.
        is_in_cells: the pixels are stored cell by cell, uncompressed or as RLE; other codecs hold values, not cells.

    Raises:
        UserError: BitsStored or HighBit does not fit into BitsAllocated, or HighBit says that a compressed image is shifted.
    """
    allocated, stored, high = _bits(dataset)
    if not 0 < stored <= high + 1 <= allocated:
        raise UserError(
            f"Expected BitsStored bits up to HighBit within BitsAllocated, but {path} has {stored} up to bit {high} of {allocated}."
            " Convert it to PNG."
        )
    if high != stored - 1 and not is_in_cells:
        raise UserError(
            f"Expected HighBit {stored - 1} for BitsStored {stored} in a compressed image, but {path} has {high}."
            " Convert it to PNG."
        )


def values_and_padding(dataset: "Dataset", *, is_in_cells: bool) -> tuple[_Values, NDArray[np.bool_] | None]:
    """The stored values of a grayscale image, and where they are padding.

    PixelPaddingValue, or the range from it to PixelPaddingRangeLimit, marks pixels outside the image. It is compared with the
    stored value, whatever sign its own type gives it; a value that BitsStored bits cannot hold is compared with the whole cell.

    Args:
        dataset: the header and the pixels.
        is_in_cells: as in `check_bits`.

    Returns:
        `(H, W)` integers, and `(H, W)` True where there is padding; None without any.
    """
    from pydicom.pixels import pixel_array

    allocated, stored, high = _bits(dataset)
    is_signed = int(dataset.get("PixelRepresentation") or 0) == 1
    ends = [first_number(dataset.get(name)) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    padding = None if ends[0] is None else sorted(int(end) for end in ends if end is not None)
    if not is_in_cells or allocated not in (8, 16):
        values = dataset.pixel_array
        return values, _between(values, padding, stored, is_signed)
    cells = pixel_array(dataset, bits_stored=allocated, pixel_representation=0)
    kind = np.dtype(f"{'i' if is_signed else 'u'}{allocated // 8}")
    # up to the top of the cell and down again, which repeats the sign
    values = (cells << (allocated - 1 - high)).view(kind) >> (allocated - stored)
    found = _between(values, padding, stored, is_signed)
    if found is None:
        found = _between(cells.view(kind), padding, allocated, is_signed)
    return values, found


def _bits(dataset: "Dataset") -> tuple[int, int, int]:
    """BitsAllocated, BitsStored and HighBit."""
    stored = int(dataset.BitsStored)
    high = dataset.get("HighBit")
    return int(dataset.BitsAllocated), stored, stored - 1 if high is None else int(high)


def _between(values: _Values, ends: list[int] | None, bits: int, is_signed: bool) -> NDArray[np.bool_] | None:
    """Where values of so many bits are within a range; None where nowhere."""
    if ends is None:
        return None
    low, size = (-(2 ** (bits - 1)) if is_signed else 0), 2**bits
    if not all(low <= end < low + size for end in ends):
        # written with the other sign, in two bytes
        ends = sorted((end + 2**16 if end < 0 else end - 2**16) for end in ends)
        if not all(low <= end < low + size for end in ends):
            return None
    found = (values >= ends[0]) & (values <= ends[-1])
    return found if found.any() else None
