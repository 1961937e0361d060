"""DICOM files for tests."""

import math

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

DEEP = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)  # 12 bits


def dataset(pixels, *, bits=None, syntax=ExplicitVRLittleEndian, data=None, **fields):
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    made.PixelData = data or pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def written(tmp_path, *arguments, **options):
    path = tmp_path / "image.dcm"
    run_lengths = options.get("syntax") == RLELossless
    made = dataset(*arguments, **options | ({"syntax": ExplicitVRLittleEndian} if run_lengths else {}))
    if run_lengths:
        made.compress(RLELossless)
    made.save_as(path, enforce_file_format=True)
    return path


def table(first, entries, bits=16):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.add_new("LUTData", "US", list(entries))
    return [item]


def assert_shows(image, values, expected):
    """Each pixel is what the function of its value says, but for rounding."""
    assert (image.dtype, image.shape) == (np.uint8, values.shape)
    for pixel, value in zip(image.ravel().tolist(), values.ravel().tolist(), strict=True):
        assert abs(pixel - expected(value)) <= 0.5 + 1e-9, value


def by_formula(x, center, width, function="LINEAR"):
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, one value at a time, to 0..255 without rounding."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(min(-4 * (x - center) / width, 700)))
    if function == "LINEAR_EXACT":
        if x <= center - width / 2:
            return 0
        if x > center + width / 2:
            return 255
        return ((x - center) / width + 0.5) * 255
    if x <= center - 0.5 - (width - 1) / 2:
        return 0
    if x > center - 0.5 + (width - 1) / 2:
        return 255
    return ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
