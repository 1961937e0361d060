"""Files of an archive, read one by one without unpacking: nothing is written, and no link is followed."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from hardneg_plugin.data.downloads.folders import files_below, leaves
from hardneg_plugin.errors import UserError

MAX_MEMBER = 64 * 2**20
"""Bytes of the largest file that is read into memory; a report has thousands, a malicious archive may have more."""

_BLOCK = tarfile.BLOCKSIZE
_XZ_MEMORY = 100 * 2**20
"""Bytes; `xz -9` needs two thirds of it."""
_KINDS_IN_ZIP = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class Member(NamedTuple):
    """One file."""

    name: str
    """Its path within the archive or folder."""
    content: bytes


def read_members(source: Path, *, suffix: str = "", limit: int = MAX_MEMBER) -> Iterator[Member]:
    """The files of a .tar (plain, gzip, bzip2 or xz), of a .zip, or of a folder, in their order there.

    The kind is recognised by content. Hidden files are skipped.

    Args:
        source: archive or folder.
        suffix: of the names to read, in lower case, such as ".xml"; others are checked but not read.
        limit: most bytes of one file.

    Raises:
        UserError: the source is missing, not an archive, truncated or corrupt; a member is a link or a device, has a path
            that is absolute or goes up, is encrypted, or is larger than `limit`. With the member.
    """
    if source.is_dir():
        return _of_folder(source, suffix, limit)
    if not source.is_file():
        raise UserError(f"Expected an archive or a folder at {source}, but there is none.")
    return _of_archive(source, suffix, limit)


def _of_folder(folder: Path, suffix: str, limit: int) -> Iterator[Member]:
    for name, path in files_below(folder):
        if not name.lower().endswith(suffix):
            continue
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise UserError(f"Expected to read {path}, but it cannot be read ({error.strerror}).") from error
        if len(content) > limit:
            raise _too_large(folder, name, limit)
        yield Member(name, content)


def _of_archive(source: Path, suffix: str, limit: int) -> Iterator[Member]:
    place = _Place()
    try:
        yield from (_of_zip if _is_zip(source) else _of_tar)(source, suffix, limit, place)
    except UserError:
        raise
    except Exception as error:  # broken bytes make the readers raise zlib.error, EOFError and others
        reason = ": ".join(filter(None, (place.text, str(error) or type(error).__name__)))
        raise UserError(
            f"Expected a whole archive, but {source} is truncated or corrupt ({reason}). Download it again."
        ) from error


class _Place:
    """Where in an archive a reader is, for errors, such as "at 'a.xml'"."""

    text = ""


def _is_zip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _of_zip(source: Path, suffix: str, limit: int, place: _Place) -> Iterator[Member]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(source, info.filename, "is a link or a device")
            if _is_passed_over(source, info.filename, info.is_dir(), suffix):
                continue
            if info.compress_type not in _KINDS_IN_ZIP:
                raise _refused(source, info.filename, "is compressed in a way that archives of data do not use")
            if info.flag_bits & 1:
                raise _refused(source, info.filename, "is encrypted")
            if info.file_size > limit:
                raise _too_large(source, info.filename, limit)
            place.text = f"at {info.filename!r}"
            yield Member(info.filename, archive.read(info))


def _of_tar(source: Path, suffix: str, limit: int, place: _Place) -> Iterator[Member]:
    with _decompressed(source) as stream:
        forward = _ForwardStream(stream, limit)
        try:
            archive = tarfile.TarFile(fileobj=forward)  # type: ignore[arg-type]
            place.text = "after its beginning"
            while info := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if not info.isfile() and not info.isdir():
                    raise _refused(source, info.name, "is a link or a device")
                if not _is_passed_over(source, info.name, info.isdir(), suffix):
                    if info.size > limit:
                        raise _too_large(source, info.name, limit)
                    place.text = f"at {info.name!r}"
                    file = archive.extractfile(info)
                    content = file.read() if file else b""
                    if len(content) != info.size:
                        raise EOFError(f"{len(content)} of {info.size} bytes")
                    yield Member(info.name, content)
                place.text = f"after {info.name!r}"
        except _OversizedHeader as error:
            raise _too_large(source, place.text or "the first", limit) from error
        except tarfile.ReadError as error:
            if place.text:
                raise
            raise UserError(
                f"Expected a .tar, .tgz or .zip archive, but {source} is none of them ({error})."
            ) from error
        # The standard library reads a damaged header as the end; the true end is a block of zeros.
        if forward.last != bytes(_BLOCK):
            raise EOFError("no end mark")
        place.text = ""
        while forward.read(2**16):  # compressed data ends with a checksum
            pass


def _is_passed_over(source: Path, name: str, is_folder: bool, suffix: str) -> bool:
    if leaves(name) and not (is_folder and name.strip("./") == ""):
        raise _refused(source, name, "has a path that leaves the archive")
    return is_folder or name.rpartition("/")[2].startswith(".") or not name.lower().endswith(suffix)


def _decompressed(source: Path) -> BinaryIO:
    with source.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(source)  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.open(source)  # type: ignore[return-value]
    if head == b"\xfd7zXZ\0":
        return io.BufferedReader(_Xz(source))
    return source.open("rb")


class _Xz(io.RawIOBase):
    """An .xz that is decompressed with bounded memory: its header may ask for 4 GB."""

    def __init__(self, source: Path) -> None:
        self._file, self._decompressor = source.open("rb"), self._next()

    @staticmethod
    def _next() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            pending = self._file.read(2**16) if self._decompressor.needs_input else b""
            if self._decompressor.eof:  # of one stream; others may follow, and zeros between them
                rest = (self._decompressor.unused_data + self._file.read(2**16)).lstrip(b"\0")
                if not rest:
                    return 0
                self._decompressor, pending = self._next(), rest
            elif not pending and self._decompressor.needs_input:
                raise EOFError("the compressed part ends too early")
            content = self._decompressor.decompress(pending, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


class _OversizedHeader(Exception):
    """A header asks for more memory than a member may have."""


class _ForwardStream:
    """A stream for tarfile that only moves forward and reads at most a limit at once.

    Without it a header of a few bytes could ask for gigabytes, and a step back by one byte would decompress a .tgz from
    its beginning.
    """

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._limit, self._place = stream, limit, 0
        self.last = b""
        """The last block read."""

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> None:
        if place < self._place:
            raise EOFError(f"a step back from byte {self._place} to {place}")
        while self._place < place and self.read(min(2**16, place - self._place)):
            pass

    def read(self, size: int) -> bytes:
        if size > max(self._limit, 2**16) + _BLOCK:
            raise _OversizedHeader
        content = self._stream.read(size)
        self._place += len(content)
        if size == _BLOCK:
            self.last = content
        return content


def _refused(source: Path, name: str, why: str) -> UserError:
    return UserError(f"Expected plain files in {source}, but {name!r} {why}. Do not use this archive.")


def _too_large(source: Path, name: str, limit: int) -> UserError:
    return UserError(
        f"Expected files of at most {limit} bytes in {source}, but {name!r} is larger. Check where it is from."
    )
