"""The grayscale pipeline of PS3.3 (C.7.6.3, C.11.1, C.11.2): from stored values to what a viewer shows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

_ROWS = 256
"""Rows at a time, since NumPy makes eight bytes of each index."""
_LONGEST_SEQUENCE = 2**20
"""Bytes; a lookup table has at most 128 KiB."""


def shown(stored: NDArray[Any], padding: NDArray[np.bool_] | None, dataset: "Dataset") -> NDArray[np.uint8]:
    """What a viewer shows of stored values, with padding as background.

    The pipeline runs once per value that may occur, at most 65,536, not once per pixel.

    Args:
        stored: `(H, W)` integers of at most 16 bits.
        padding: `(H, W)`, True where there is no image; it has no part in the range, and is black. None: nowhere.
        dataset: the header.

    Returns:
        `(H, W)`.

    Raises:
        ValueError: a lookup table is broken.
    """
    if padding is not None and padding.all():
        return np.zeros(stored.shape, np.uint8)
    low, high = int(stored.min()), int(stored.max())
    values: NDArray[Any] = np.arange(low, high + 1)
    if modality := _first_item(dataset, "ModalityLUTSequence"):
        values, _ = _looked_up(values, modality, dataset)
    else:
        from pydicom.pixels import apply_modality_lut

        values = apply_modality_lut(values, dataset)
    if display := _first_item(dataset, "VOILUTSequence"):
        entries, maximum = _looked_up(np.rint(values).astype(np.int64), display, dataset)
        shares = entries / maximum
    elif (windowed := _windowed(values, dataset)) is not None:
        shares = windowed
    else:
        occurring = values[_occurs(stored, padding, low, len(values))]
        shares = (values - occurring.min()) / (np.ptp(occurring) or 1.0)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shares = 1 - shares
    table: NDArray[np.uint8] = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    image = np.empty(stored.shape, np.uint8)
    for rows in _blocks(stored):
        image[rows] = table[stored[rows].astype(np.int32) - low]
    if padding is not None:
        image[padding] = 0
    return image


def _blocks(stored: NDArray[Any]) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, len(stored), _ROWS))


def _occurs(stored: NDArray[Any], padding: NDArray[np.bool_] | None, low: int, count: int) -> NDArray[np.bool_]:
    """Which of `count` values from `low` on are in the image, outside padding."""
    found = np.zeros(count, bool)
    for rows in _blocks(stored):
        part = stored[rows] if padding is None else stored[rows][~padding[rows]]
        found |= np.bincount(part.astype(np.int32).ravel() - low, minlength=count) > 0
    return found


def _first_item(dataset: "Dataset", name: str) -> Any:
    """The first item of a sequence of lookup tables; None without one."""
    from pydicom.dataelem import RawDataElement

    if name not in dataset:
        return None
    element = dataset.get_item(name)
    # of a length in bytes: pydicom makes objects of its items only now
    if isinstance(element, RawDataElement) and element.length > _LONGEST_SEQUENCE:
        raise ValueError(f"{name} is longer than {_LONGEST_SEQUENCE} bytes")
    return dataset[name].value[0] if dataset[name].value else None


def _windowed(values: NDArray[Any], dataset: "Dataset") -> NDArray[np.float64] | None:
    """C.11.2: shares of the output range by the first window; None without one that has a width."""
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    center, width = first_number(dataset.get("WindowCenter")), first_number(dataset.get("WindowWidth"))
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


def first_number(value: Any) -> float | None:
    """The first of several numbers of an element; None where it is empty or a text."""
    if value is None or isinstance(value, str):
        return None
    numbers = [value] if isinstance(value, float | int) else value
    return float(numbers[0]) if len(numbers) else None
