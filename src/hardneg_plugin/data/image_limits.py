"""How large an image may be: a compressed file of a few kilobytes can claim any size."""

from pathlib import Path

from hardneg_plugin.errors import UserError

MAX_PIXELS = 50_000_000
"""The largest detectors have less than half of this."""
MAX_ASPECT = 10
"""Longer over shorter side; a longer strip is not a radiograph, and resizing its shorter side could fill the memory."""


def check_size(width: int, height: int, path: Path, *, at_most: int = MAX_PIXELS) -> None:
    """Refuse an image by the size that its header claims, before it is decoded.

    Args:
        width, height: in pixels.
        path: its file, for the message.
        at_most: pixels.

    Raises:
        UserError: it has no pixels or too many, or is a strip.
    """
    if not 0 < width * height <= at_most:
        raise UserError(f"Expected 1 to {at_most:,} pixels, but {path} has {width} x {height}.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"Expected an image of at most {MAX_ASPECT}:1, but {path} has {width} x {height} pixels.")
