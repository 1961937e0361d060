"""A store of images whose shards are elsewhere: in a bucket, or on any file system that fsspec knows."""

import os
import zlib
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.data.store import ImageStore, StoredViews, shard_name
from hardneg_plugin.errors import UserError, first_line


class RemoteStore(ImageStore):
    """The shards below a URL. A study is one request for its bytes, by the process that needs it: no shard is read as a whole.

    Each process opens the file system itself, as many of them cannot be forked.

    Args:
        url: of the folder, such as `s3://bucket/prepared/images`.

    Raises:
        UserError: it is no URL.

    >>> import fsspec
    >>> fsspec.filesystem("memory").pipe_file("/doctest/00000.bin", bytes(range(6)))
    >>> store = RemoteStore("memory://doctest")
    >>> place = StoredViews(offset=2, heights=(2,), widths=(2,), checksum=zlib.crc32(bytes([2, 3, 4, 5])))
    >>> store.size(0), store.views("s", 0, place)[0].tolist()
    (6, [[[2, 3], [4, 5]]])
    """

    def __init__(self, url: str) -> None:
        if "://" not in url:
            raise UserError(
                f"images: expected a URL, such as s3://bucket/prepared/images or file:///data, but got {url!r}."
            )
        self._url = url.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None
        self._sizes: dict[str, int | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def path(self, shard: int) -> str:
        """The URL of a shard."""
        return f"{self._url}/{shard_name(shard)}"

    def size(self, shard: int) -> int:
        """Bytes of a shard, by one listing for all where the file system lists sizes.

        Raises:
            UserError: there is none, or the folder cannot be listed.
        """
        files, folder = self._files()
        try:
            if self._sizes is None:
                self._sizes = {
                    entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in files.ls(folder, detail=True)
                }
            if shard_name(shard) in self._sizes and self._sizes[shard_name(shard)] is None:
                self._sizes[shard_name(shard)] = files.size(f"{folder}/{shard_name(shard)}")
        except Exception as error:  # of any file system
            raise UserError(
                f"images: expected a folder of shards at {self._url}, but it cannot be listed ({first_line(error)}). Copy the "
                "folder `images` there, or check the URL and your credentials."
            ) from error
        if (size := self._sizes.get(shard_name(shard))) is None:
            raise UserError(f"{self.path(shard)} cannot be found. Copy the folder `images` there again.")
        return int(size)

    def _read(self, study: str, shard: int, stored: StoredViews) -> Tensor:
        start, stop = self._range(study, shard, stored, self.size(shard))
        if start == stop:
            return torch.empty(0, dtype=torch.uint8)
        files, folder = self._files()
        try:
            content = files.cat_file(f"{folder}/{shard_name(shard)}", start=start, end=stop)
        except Exception as error:  # of any file system
            raise UserError(
                f"Study {study!r}: {self.path(shard)} cannot be read ({first_line(error)}). Try again: a training goes on "
                "from its last checkpoint."
            ) from error
        # which a memory map cannot lose, but a connection can
        if len(content) != stop - start or zlib.crc32(content) != stored.checksum:
            raise UserError(
                f"Study {study!r}: the images at bytes {start} to {stop} of {self.path(shard)} are not those of the table. Copy "
                "the folder `images` there again."
            )
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    def _files(self) -> tuple[Any, str]:
        """The file system, opened by this process, and the folder in it."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.asyn import reset_lock  # imported where used: prepared folders are mostly local
            from fsspec.core import url_to_fs

            if self._opened is not None:  # forked: the thread that served requests is the parent's
                reset_lock()
            try:
                self._opened = (os.getpid(), *url_to_fs(self._url))
            except (ImportError, ValueError) as error:
                raise UserError(
                    f"images: expected a URL that fsspec can open, but {self._url} is none ({first_line(error)}). Install what it "
                    "names, such as s3fs for s3:// or gcsfs for gs://."
                ) from error
        return self._opened[1], self._opened[2]
