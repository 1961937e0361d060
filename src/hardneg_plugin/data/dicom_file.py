"""Opening a DICOM without giving it more memory than an image needs: a file of a few megabytes can ask for any amount."""

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hardneg_plugin.data.image_limits import MAX_PIXELS
from hardneg_plugin.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_BYTES = 2 * MAX_PIXELS + 2**24
"""Of a file, inflated: the pixels at two bytes each, and the header."""
MAX_ELEMENTS = 100_000
"""Elements and items; a radiograph has hundreds, and each takes a hundred times its bytes in memory."""

_MAGIC_END = 132
_GROUP_LENGTH_END = _MAGIC_END + 12
_BLOCK = 2**20


def open_dicom(path: Path) -> "Dataset":
    """Read the header of a DICOM, and its pixels as they are stored.

    Args:
        path: the file.

    Raises:
        UserError: it is larger than an image can be, or becomes so when inflated, or has too many elements.
        Exception: whatever pydicom raises of broken bytes.
    """
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(f"Expected a DICOM of at most {MAX_BYTES:,} bytes, but {path} has {size:,}. Remove its study.")
    with path.open("rb") as file:
        meta = pydicom.filereader.read_file_meta_info(path)
        content: BinaryIO = file
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            content = _inflated(file, meta, path)
        return pydicom.dcmread(_CountedReads(content, path))  # type: ignore[arg-type]


def _inflated(file: BinaryIO, meta: "Dataset", path: Path) -> BinaryIO:
    """The same file, not deflated; zlib in pydicom would inflate any amount."""
    import pydicom
    from pydicom.filebase import DicomBytesIO
    from pydicom.uid import ExplicitVRLittleEndian

    file.seek(_GROUP_LENGTH_END + int(meta.FileMetaInformationGroupLength))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    head.write(bytes(_MAGIC_END - 4) + b"DICM")
    pydicom.filewriter.write_file_meta_info(head, meta, enforce_standard=False)
    whole = io.BytesIO()
    whole.write(head.getvalue())
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof:
        deflated = inflater.unconsumed_tail or file.read(_BLOCK)
        if not (part := inflater.decompress(deflated, _BLOCK)) and not deflated:
            raise EOFError("the deflated part ends too early")
        whole.write(part)
        if whole.tell() > MAX_BYTES:
            raise UserError(
                f"Expected a DICOM of at most {MAX_BYTES:,} bytes, but {path} inflates to more. Remove its study."
            )
    whole.seek(0)
    return whole


class _CountedReads(io.RawIOBase):
    """A file whose reader stops after `MAX_ELEMENTS` elements: each takes one short read or two."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._left = file, path, 2 * MAX_ELEMENTS

    def read(self, size: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UserError(f"Expected at most {MAX_ELEMENTS:,} elements, but {self._path} has more. Remove its study.")
        return self._file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()
