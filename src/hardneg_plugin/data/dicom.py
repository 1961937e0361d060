"""One DICOM file as the grayscale image that a viewer shows, by the grayscale pipeline of PS3.3 (C.7.6.3, C.11.1, C.11.2).

pydicom is imported only when a DICOM is read: training on PNG and JPEG does not need it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardneg_plugin.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_PIXELS = 100_000_000
"""The largest detectors have less than a fifth of this; a compressed file can claim any size."""

_INSTALL = "Install a decoder: pip install 'hardneg-plugin[dicom]'"


def is_dicom(start: bytes) -> bool:
    """Whether a file is a DICOM, by its first 132 bytes."""
    return start[128:132] == b"DICM"


def read_dicom(path: Path) -> NDArray[np.uint8]:
    """Read a radiograph of one frame.

    Stored values go through the modality LUT or rescaling, then through the first VOI LUT or else the first window; without
    either, or if the window has no width, the image's minimum and maximum become 0 and 255. MONOCHROME1 is inverted, so
    that bone is always bright. Colour of 8 bits becomes luminance.

    Args:
        path: the file.

    Returns:
        `(H, W)` uint8.

    Raises:
        UserError: the file is missing, broken, has no pixels, several frames, more than 16 bits, a photometric
            interpretation other than grayscale, RGB or YBR, or a compression that no installed decoder reads.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        _check(dataset, path)
        stored = _stored_values(dataset, path)
        if stored.ndim == 3:
            return np.array(Image.fromarray(stored).convert("L"))
        return _shown(stored, dataset)
    except UserError:
        raise
    except Exception as error:  # broken bytes make pydicom and its decoders raise a dozen kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Expected a whole DICOM, but {path} cannot be read ({reason}). Replace it, or remove its study."
        ) from error


def _check(dataset: "Dataset", path: Path) -> None:
    """Refuse what is not a radiograph before its pixels are decoded."""
    if "PixelData" not in dataset:
        raise UserError(f"Expected a DICOM with an image, but {path} has no pixel data. Remove it.")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise UserError(f"Expected a radiograph of one frame, but {path} has {frames}. Remove it, or export one frame.")
    height, width = int(dataset.Rows), int(dataset.Columns)
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"Expected 1 to {MAX_PIXELS:,} pixels, but {path} has {width} x {height}.")
    kind = str(dataset.PhotometricInterpretation)
    allowed = 16 if kind in ("MONOCHROME1", "MONOCHROME2") else 8 if kind.startswith(("RGB", "YBR")) else 0
    if not 0 < int(dataset.BitsAllocated) <= allowed:
        raise UserError(
            f"Expected grayscale of at most 16 bits or RGB or YBR of 8, but {path} is {kind} of {dataset.BitsAllocated}."
            " Convert it to PNG."
        )


def _stored_values(dataset: "Dataset", path: Path) -> NDArray[Any]:
    """`(H, W)` integers, or `(H, W, 3)` RGB."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise UserError(f"{path} is compressed as {syntax.name}, which no installed decoder reads. {_INSTALL}.")
    try:
        values: NDArray[Any] = dataset.pixel_array
        return values
    except Exception as error:
        if syntax.is_compressed and decoder.missing_dependencies:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}, compressed as {syntax.name}, cannot be decoded: it is broken, or needs a decoder that is not"
                f" installed ({reason}). {_INSTALL}, or replace the file."
            ) from error
        raise


def _shown(stored: NDArray[Any], dataset: "Dataset") -> NDArray[np.uint8]:
    """The pipeline runs once per value that may occur, at most 65,536, not once per pixel."""
    from pydicom.pixels import apply_modality_lut

    low, high = int(stored.min()), int(stored.max())
    index = stored.astype(np.int32) - low
    values: NDArray[Any] = np.arange(low, high + 1)
    if dataset.get("ModalityLUTSequence"):
        values, _ = _looked_up(values, dataset.ModalityLUTSequence[0], dataset)
    else:
        values = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        shown, maximum = _looked_up(np.rint(values).astype(np.int64), dataset.VOILUTSequence[0], dataset)
        shares = shown / maximum
    elif (windowed := _windowed(values, dataset)) is not None:
        shares = windowed
    else:
        occurring = values[np.bincount(index.ravel(), minlength=len(values)) > 0]
        shares = (values - occurring.min()) / (np.ptp(occurring) or 1.0)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shares = 1 - shares
    table: NDArray[np.uint8] = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    return table[index]


def _windowed(values: NDArray[Any], dataset: "Dataset") -> NDArray[np.float64] | None:
    """C.11.2: shares of the output range by the first window; None without one that has a width."""
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or not (width >= 1 if function == "LINEAR" else width > 0):
        return None
    # One bit, so that pydicom's output range is 0 to 1. The file's own range would be turned over by a negative slope.
    window = Dataset()
    window.PhotometricInterpretation, window.PixelRepresentation, window.BitsStored = "MONOCHROME2", 0, 1
    window["WindowCenter"], window["WindowWidth"] = dataset["WindowCenter"], dataset["WindowWidth"]
    window.VOILUTFunction = function
    with np.errstate(over="ignore"):
        shares: NDArray[np.float64] = apply_windowing(values, window)
    return shares


# Not pydicom's: of tables with entries of 8 bits it refuses those of one byte an entry, as the standard has them, and apply_voi
# wraps indices around at 256; so it does at 65,536 after rescaling.
def _looked_up(values: NDArray[Any], item: "Dataset", dataset: "Dataset") -> tuple[NDArray[np.float64], int]:
    """The entries of a LUT for these values, its ends for those outside it; and the largest value of that many bits."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else f"{order}u2")
    else:
        table = np.atleast_1d(np.asarray(data))
    if len(table) < entries or not 1 <= bits <= 16:
        raise ValueError(f"a lookup table of {entries} entries of {bits} bits has {len(table)}")
    return table[np.clip(values - first, 0, entries - 1)].astype(np.float64), 2**bits - 1


def _first(value: Any) -> float | None:
    """The first of several windows."""
    if value is None or isinstance(value, str):
        return None
    windows = [value] if isinstance(value, float | int) else value
    return float(windows[0]) if len(windows) else None
