"""A store of resized images: raw grayscale pixels in shards, read by memory map without decoding.

A shard has no headers: a table says where a study begins and how large its views are. A study is one contiguous read.
"""

import os
import stat
import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardneg_plugin.errors import UserError


class StoredViews(NamedTuple):
    """Where the views of a study are in a shard: consecutive, row by row, a byte per pixel."""

    offset: int
    """Bytes before the first view."""
    heights: tuple[int, ...]
    """Pixels, one value per view."""
    widths: tuple[int, ...]
    """Pixels, one value per view."""
    checksum: int
    """crc32 over the bytes of all views."""

    @property
    def size(self) -> int:
        """Bytes of all views."""
        return sum(height * width for height, width in zip(self.heights, self.widths, strict=True))


def shard_name(shard: int) -> str:
    """The name of a shard's file."""
    return f"{shard:05d}.bin"


def view_hash(view: Tensor) -> int:
    """A non-negative 63-bit hash of the pixels of a view `(1, H, W)` uint8 and of its size.

    >>> view_hash(torch.zeros(1, 2, 3, dtype=torch.uint8)) == view_hash(torch.zeros(1, 3, 2, dtype=torch.uint8))
    False
    """
    digest = blake2b(repr(tuple(view.shape)).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(view.numpy()).data)
    return int.from_bytes(digest.digest(), "big") >> 1


def write_shard(file: BinaryIO, studies: Iterable[Sequence[Tensor]]) -> list[StoredViews]:
    """Write the views of one study after another; only one study is in memory at a time.

    Args:
        file: an empty file.
        studies: the views of each, `(1, H, W)` uint8.

    Returns:
        Where each study is.

    Raises:
        ValueError: a view has another type or shape.
    """
    stored, offset = [], 0
    for views in studies:
        checksum = 0
        for view in views:
            if view.dtype != torch.uint8 or view.ndim != 3 or view.shape[0] != 1:
                raise ValueError(
                    f"Expected views (1, H, W) of torch.uint8, but got {tuple(view.shape)} of {view.dtype}."
                )
            pixels = np.ascontiguousarray(view.numpy())
            file.write(pixels.data)
            checksum = zlib.crc32(pixels.data, checksum)
        heights, widths = zip(*(view.shape[1:] for view in views), strict=True) if views else ((), ())
        stored.append(StoredViews(offset, heights, widths, checksum))
        offset += stored[-1].size
    return stored


class ImageStore:
    """The shards in a folder.

    Each process maps a shard when it first reads it; only the name of the folder is pickled. No file stays open: a process
    may not hold thousands open.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_shards": {}}

    def path(self, shard: int) -> Path | str:
        """The file of a shard."""
        return self._folder / shard_name(shard)

    def size(self, shard: int) -> int:
        """Bytes of a shard's file.

        Raises:
            UserError: there is none.
        """
        path = self._folder / shard_name(shard)
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be found ({error.strerror}). Copy the folder again, or prepare it."
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"Expected {path} to be a file. Copy the folder again, or prepare it.")
        return status.st_size

    def views(self, study: str, shard: int, stored: StoredViews) -> list[Tensor]:
        """The views of a study, not copied: do not write to them.

        Args:
            study: its id, for errors.
            shard: the number of its shard.
            stored: its place in the shard.

        Returns:
            `(1, H, W)` uint8 each.

        Raises:
            UserError: the file is missing or too short.
        """
        pixels = self._read(study, shard, stored)
        sizes = list(zip(stored.heights, stored.widths, strict=True))
        parts = pixels.split([height * width for height, width in sizes])
        return [part.view(1, height, width) for part, (height, width) in zip(parts, sizes, strict=True)]

    def check(self, study: str, shard: int, stored: StoredViews) -> None:
        """Read a study and compare its checksum.

        Args:
            study, shard, stored: as in `views`.

        Raises:
            UserError: it differs, or the study cannot be read.
        """
        if zlib.crc32(self._read(study, shard, stored).numpy().data) != stored.checksum:
            raise UserError(
                f"Study {study!r}: the checksum of its images in {self.path(shard)} differs from the table's. "
                "Copy the folder again, or prepare it anew."
            )

    def _read(self, study: str, shard: int, stored: StoredViews) -> Tensor:
        pixels = self._map(study, shard)
        start, stop = self._range(study, shard, stored, len(pixels))
        return pixels[start:stop]

    def _range(self, study: str, shard: int, stored: StoredViews, size: int) -> tuple[int, int]:
        """Where a study begins and ends in a shard of `size` bytes, checked."""
        start, stop = stored.offset, stored.offset + stored.size
        if start < 0 or min(stored.heights + stored.widths, default=1) < 1 or stop > size:
            raise UserError(
                f"Study {study!r}: expected its images at bytes {start} to {stop} of {self.path(shard)}, but there are "
                f"{size}: the file is truncated, or of another table. Copy the folder again, or prepare it anew."
            )
        return start, stop

    def _map(self, study: str, shard: int) -> Tensor:
        if shard not in self._shards:
            try:
                size = self.size(shard)
                # Not shared: no file descriptor stays open, and writes do not reach the file.
                self._shards[shard] = (
                    torch.from_file(str(self.path(shard)), shared=False, size=size, dtype=torch.uint8)
                    if size
                    else torch.empty(0, dtype=torch.uint8)
                )
            except (UserError, RuntimeError) as error:
                raise UserError(f"Study {study!r}: {error}") from error
        return self._shards[shard]
