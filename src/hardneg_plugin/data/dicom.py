"""One DICOM file as the grayscale image that a viewer shows.

pydicom is imported only when a DICOM is read: training on PNG and JPEG does not need it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardneg_plugin.data.dicom_cells import check_bits, values_and_padding
from hardneg_plugin.data.dicom_codestream import check_codestream
from hardneg_plugin.data.dicom_display import shown
from hardneg_plugin.data.dicom_file import open_dicom
from hardneg_plugin.data.image_limits import check_size
from hardneg_plugin.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_INSTALL = "Install a decoder: pip install 'hardneg-plugin[dicom]'"
_LONGEST_REASON = 200
"""Characters told of another library's message, which may quote the file."""


def is_dicom(start: bytes) -> bool:
    """Whether a file is a DICOM, by its first 132 bytes."""
    return start[128:132] == b"DICM"


def read_dicom(path: Path) -> NDArray[np.uint8]:
    """Read a radiograph of one frame.

    Stored values go through the modality LUT or rescaling, then through the first VOI LUT or else the first window; without
    either, or if the window has no width, the image's minimum and maximum become 0 and 255. MONOCHROME1 is inverted, so
    that bone is always bright. Padding has no part in the range, and is black. Colour of 8 bits becomes luminance.

    Args:
        path: the file.

    Returns:
        `(H, W)` uint8.

    Raises:
        UserError: the file is missing, broken, has no pixels, several frames, more than 16 bits, bits at a place within their
            cells that cannot be, a photometric interpretation other than grayscale, RGB or YBR, or a compression that no
            installed decoder reads; or it would take more memory than an image can.
    """
    try:
        dataset = open_dicom(path)
        _check(dataset, path)
        with _decoding(dataset, path) as is_in_cells:
            if not str(dataset.PhotometricInterpretation).startswith("MONOCHROME"):
                return np.array(Image.fromarray(dataset.pixel_array).convert("L"))
            check_bits(dataset, path, is_in_cells=is_in_cells)
            values, padding = values_and_padding(dataset, is_in_cells=is_in_cells)
        return shown(values, padding, dataset)
    except UserError:
        raise
    except Exception as error:  # broken bytes make pydicom and its decoders raise a dozen kinds
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UserError(
            f"Expected a whole DICOM, but {path} cannot be read ({reason}). Replace it, or remove its study."
        ) from error


def _check(dataset: "Dataset", path: Path) -> None:
    """Refuse what is not a radiograph before its pixels are decoded."""
    if "PixelData" not in dataset:
        raise UserError(f"Expected a DICOM with an image, but {path} has no pixel data. Remove it.")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise UserError(f"Expected a radiograph of one frame, but {path} has {frames}. Remove it, or export one frame.")
    check_size(int(dataset.Columns), int(dataset.Rows), path)
    kind, samples = str(dataset.PhotometricInterpretation), int(dataset.get("SamplesPerPixel") or 1)
    is_gray = kind in ("MONOCHROME1", "MONOCHROME2")
    allowed = 16 if is_gray else 8 if kind.startswith(("RGB", "YBR")) else 0
    if not 0 < int(dataset.BitsAllocated) <= allowed:
        raise UserError(
            f"Expected grayscale of at most 16 bits or RGB or YBR of 8, but {path} is {kind} of {dataset.BitsAllocated}."
            " Convert it to PNG."
        )
    if samples != (1 if is_gray else 3):
        raise UserError(
            f"Expected one sample per pixel of grayscale, three of colour, but {path} is {kind} of {samples}."
        )


@contextmanager
def _decoding(dataset: "Dataset", path: Path) -> Iterator[bool]:
    """Within it pixels may be decoded; gives whether they are stored cell by cell, as pixels without compression and RLE are.

    Raises:
        UserError: they are compressed, and become more than the header says, or no installed decoder reads them.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise UserError(f"{path} is compressed as {syntax.name}, which no installed decoder reads. {_INSTALL}.")
    if syntax.is_compressed:
        check_codestream(dataset, path)
    try:
        yield syntax == RLELossless or not syntax.is_compressed
    except UserError:
        raise
    except Exception as error:
        if syntax.is_compressed and decoder.missing_dependencies:
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            raise UserError(
                f"{path}, compressed as {syntax.name}, cannot be decoded: it is broken, or needs a decoder that is not"
                f" installed ({reason}). {_INSTALL}, or replace the file."
            ) from error
        raise
