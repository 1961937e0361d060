"""How large a compressed image of a DICOM is by its own word, before a decoder believes it."""

from pathlib import Path
from typing import TYPE_CHECKING

from hardneg_plugin.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_SLACK = 2**20
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Of JPEG and JPEG-LS: the segments that begin with height and width."""


def check_codestream(dataset: "Dataset", path: Path) -> None:
    """Refuse compressed pixels that would become more than the header says.

    Args:
        dataset: the header and the pixels, compressed.
        path: its file, for the message.

    Raises:
        UserError: the image in the pixel data has another size, or run lengths that add up to more.
        Exception: whatever broken bytes raise.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1, extended_offsets=offsets)
    height, width = int(dataset.Rows), int(dataset.Columns)
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        pixel = int(dataset.get("SamplesPerPixel") or 1) * -(-int(dataset.BitsAllocated) // 8)
        expected = 2 * height * width * pixel + _SLACK  # encoders may pad
        if 64 * len(frame) > expected and _run_lengths(frame, expected) > expected:
            raise UserError(f"Expected run lengths of {height * width} pixels, but {path} has more. Remove its study.")
        return
    size = _jpeg_2000_size(frame) or _jpeg_size(frame)
    if size is not None and size != (width, height):
        raise UserError(
            f"Expected an image of {width} x {height} pixels, as its header says, but {path} holds one of {size[0]} x {size[1]}. "
            "Remove its study."
        )


def _run_lengths(frame: bytes, enough: int) -> int:
    """Bytes that a frame of run lengths becomes, read as one segment after its header of 64 bytes; counted up to `enough`."""
    total, place = 0, 64
    while place < len(frame) and total <= enough:
        head = frame[place]
        if head < 128:
            total, place = total + head + 1, place + head + 2
        else:
            total, place = total + (257 - head if head > 128 else 0), place + (2 if head > 128 else 1)
    return total


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG or JPEG-LS; None where there is no such frame."""
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        if frame[place + 1] in _FRAME_MARKERS:
            return int.from_bytes(frame[place + 7 : place + 9], "big"), int.from_bytes(
                frame[place + 5 : place + 7], "big"
            )
        is_fill = frame[place + 1] == 0xFF
        place += 1 if is_fill else 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def _jpeg_2000_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG 2000, by itself or in the boxes of a JP2; None where it is none.

    Raises:
        ValueError: a box has no length, at which pydicom would go around in circles.
    """
    place = 0
    if frame.startswith(b"\0\0\0\x0cjP  "):
        place = 12
        while place < len(frame) and frame[place + 4 : place + 8] != b"jp2c":
            if (length := int.from_bytes(frame[place : place + 4], "big")) < 8:
                raise ValueError("a box of the JP2 has no length")
            place += length
        place += 8
    if frame[place : place + 4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top = (
        int.from_bytes(frame[start : start + 4], "big") for start in range(place + 8, place + 24, 4)
    )
    return right - left, bottom - top
