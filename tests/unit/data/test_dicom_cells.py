"""Padding, and where in its cell a value has its bits: each against the formula of the standard."""

import struct

import numpy as np
import pytest
from dicoms import DEEP, assert_shows, by_formula, dataset, written
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from hardneg_plugin.data.dicom import read_dicom
from hardneg_plugin.errors import UserError

RAMP = np.tile(np.rint(np.linspace(1000, 2000, 64)).astype(np.uint16), (64, 1))
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
]


def padded(value, kind=np.uint16):
    """The ramp under eight rows of one value."""
    pixels = RAMP.astype(kind)
    pixels[:8] = value
    return pixels


def of_range(x, low=1000, high=2000):
    return 255 * (x - low) / (high - low)


def test_a_value_for_padding_is_left_out_of_the_range_and_black(tmp_path):
    """The three files of a public report."""
    for pixels, fields, shown in (
        (padded(65535), {"PixelPaddingValue": 65535}, of_range),
        (padded(-2000, np.int16), {"PixelPaddingValue": -2000}, of_range),
        (
            padded(0),
            {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"},
            lambda x: 255 - of_range(x),
        ),
    ):
        image = read_dicom(written(tmp_path, pixels, **fields))
        assert not image[:8].any()
        assert_shows(image[8:], RAMP[8:], shown)
        assert (image[8:].min(), image[8:].max()) == (0, 255)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 400}])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_in_every_encoding_with_a_window_and_inverted(tmp_path, syntax, window, kind):
    fields = {"PixelPaddingValue": 3000, "PhotometricInterpretation": kind, **window}
    image = read_dicom(written(tmp_path, padded(3000), bits=12, syntax=syntax, **fields))
    assert not image[:8].any()
    upright = (lambda x: by_formula(x, 1500, 400)) if window else of_range
    assert_shows(image[8:], RAMP[8:], upright if kind == "MONOCHROME2" else lambda x: 255 - upright(x))


@pytest.mark.parametrize("ends", [(0, 100), (100, 0)])
def test_a_range_of_padding_in_either_order(tmp_path, ends):
    pixels = RAMP.copy()
    pixels[:8] = np.linspace(0, 100, 64).astype(np.uint16)
    fields = {"PixelPaddingValue": ends[0], "PixelPaddingRangeLimit": ends[1]}
    image = read_dicom(written(tmp_path, pixels, **fields))
    assert not image[:8].any()
    assert_shows(image[8:], RAMP[8:], of_range)


@pytest.mark.parametrize(("kind", "vr", "raw"), [("i2", "US", 63536), ("u2", "SS", -1)])
def test_a_padding_value_with_the_sign_of_the_other_type(tmp_path, kind, vr, raw):
    made = dataset(padded(-2000 if kind == "i2" else 65535, kind))
    made.add_new("PixelPaddingValue", vr, raw)
    made.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    image = read_dicom(tmp_path / "image.dcm")
    assert not image[:8].any()
    assert_shows(image[8:], RAMP[8:], of_range)


def test_a_padding_value_beyond_the_stored_bits_is_that_of_the_cell(tmp_path):
    pixels = padded(65535)
    pixels[8] = 4095  # the brightest value of 12 bits is no padding, though its lower bits are
    image = read_dicom(written(tmp_path, pixels, bits=12, PixelPaddingValue=65535))
    assert not image[:8].any()
    assert_shows(image[8:], pixels[8:], lambda x: of_range(x, 1000, 4095))


def test_signed_padding_of_fewer_bits_than_the_cells(tmp_path):
    signed = padded(-2000, np.int16)
    stored = (signed.view(np.uint16) & 0x0FFF).view(np.int16)
    image = read_dicom(written(tmp_path, stored, bits=12, PixelPaddingValue=-2000))
    assert not image[:8].any()
    assert_shows(image[8:], RAMP[8:], of_range)


def test_rescaling_does_not_move_padding(tmp_path):
    fields = {"PixelPaddingValue": 0, "RescaleSlope": "-2", "RescaleIntercept": "1000"}
    image = read_dicom(written(tmp_path, padded(0), **fields))
    assert not image[:8].any()
    assert_shows(image[8:], RAMP[8:], lambda x: 255 - of_range(x))


def test_padding_that_does_not_occur_or_is_all_there_is(tmp_path):
    whole = read_dicom(written(tmp_path, RAMP))
    assert np.array_equal(read_dicom(written(tmp_path, RAMP, PixelPaddingValue=5)), whole)
    assert np.array_equal(read_dicom(written(tmp_path, RAMP, bits=12, PixelPaddingValue=70)), whole)
    assert not read_dicom(written(tmp_path, np.full((9, 9), 7, np.uint16), PixelPaddingValue=7)).any()
    made = dataset(RAMP)
    made.PixelPaddingValue = None
    made.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert np.array_equal(read_dicom(tmp_path / "image.dcm"), whole)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("high", [11, 12, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_high_bit_says_where_in_its_cell_a_value_is(tmp_path, syntax, high, signed):
    values = DEEP.astype(np.int16) - (2048 if signed else 0)
    shift = high - 11
    junk = (np.arange(values.size, dtype=np.uint16).reshape(values.shape) * 7919) & ~np.uint16(0x0FFF << shift)
    cells = ((values.view(np.uint16) & 0x0FFF) << shift) | junk  # other bits mean nothing
    path = written(tmp_path, cells.view(np.int16 if signed else np.uint16), bits=12, syntax=syntax, HighBit=high)
    low, top = int(values.min()), int(values.max())
    assert_shows(read_dicom(path), values, lambda x: 255 * (x - low) / (top - low))


@pytest.mark.parametrize("fields", [{"HighBit": 16}, {"HighBit": 10}, {"BitsStored": 17, "HighBit": 16}])
def test_bits_that_do_not_fit_are_refused(tmp_path, fields):
    with pytest.raises(UserError, match="BitsStored bits up to HighBit"):
        read_dicom(written(tmp_path, DEEP, bits=12, **fields))


def test_a_shifted_image_that_is_compressed_is_refused(tmp_path):
    codestream = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 41, 0, 30, 20, 0, 0) + bytes(40)
    path = written(tmp_path, DEEP, bits=12, syntax=JPEG2000Lossless, data=encapsulate([codestream]), HighBit=15)
    with pytest.raises(UserError, match=r"HighBit 11 for BitsStored 12 in a compressed image.* has 15\. Convert"):
        read_dicom(path)


def test_one_bit_a_pixel(tmp_path):
    bits = np.random.default_rng(3).integers(0, 2, (16, 24)).astype(np.uint8)
    packed = np.packbits(bits, bitorder="little").tobytes()
    path = written(tmp_path, bits, data=packed, BitsAllocated=1, BitsStored=1, HighBit=0)
    assert np.array_equal(read_dicom(path), 255 * bits)
    path = written(tmp_path, bits, data=packed, BitsAllocated=1, BitsStored=1, HighBit=0, PixelPaddingValue=1)
    assert not read_dicom(path).any()
