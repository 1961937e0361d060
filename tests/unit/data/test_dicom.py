import importlib
import io
import random
import sys
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
import torch
from dicoms import DEEP, assert_shows, by_formula, dataset, table, written
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from hardneg_plugin.data.dicom import read_dicom
from hardneg_plugin.data.image_limits import MAX_PIXELS
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.errors import UserError


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1500, 700.5), (2048, 1), (4095.5, 3000), (-50, 900)])
def test_windows_are_those_of_the_standard(tmp_path, function, center, width):
    fields = {} if function is None else {"VOILUTFunction": function}
    path = written(tmp_path, DEEP, bits=12, WindowCenter=center, WindowWidth=width, **fields)
    assert_shows(read_dicom(path), DEEP, lambda x: by_formula(x, center, width, function or "LINEAR"))


def test_the_first_of_several_windows_counts(tmp_path):
    path = written(tmp_path, DEEP, WindowCenter=[1000, 2000], WindowWidth=[500, 4000])
    assert_shows(read_dicom(path), DEEP, lambda x: by_formula(x, 1000, 500))


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 9, "WindowWidth": 0}, {"WindowCenter": 9}])
def test_without_a_usable_window_the_own_range_is_shown(tmp_path, fields):
    low, high = int(DEEP.min()), int(DEEP.max())
    path = written(tmp_path, DEEP, **fields)
    assert_shows(read_dicom(path), DEEP, lambda x: 255 * (x - low) / (high - low))
    assert np.array_equal(read_dicom(written(tmp_path, np.full((3, 4), 7, np.uint16))), np.zeros((3, 4), np.uint8))


def test_rescaling_comes_before_the_window_and_may_turn_the_order(tmp_path):
    signed = DEEP.astype(np.int16) - 2000
    path = written(tmp_path, signed, RescaleSlope="-0.5", RescaleIntercept="100", WindowCenter="300", WindowWidth="800")
    assert_shows(read_dicom(path), signed, lambda x: by_formula(-0.5 * x + 100, 300, 800))


def test_signed_values_of_fewer_bits_than_their_words(tmp_path):
    signed = np.array([[-2048, -1, 0, 1, 2047]], np.int16)
    stored = (signed.view(np.uint16) & 0x0FFF).view(np.int16)  # the upper bits are not the sign
    image = read_dicom(written(tmp_path, stored, bits=12))
    assert_shows(image, signed, lambda x: 255 * (x + 2048) / 4095)


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    fields = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1500, "WindowWidth": 2000}
    path = written(tmp_path, DEEP, **fields)
    assert_shows(read_dicom(path), DEEP, lambda x: 255 - by_formula(x, 1500, 2000))


def test_lookup_tables_of_the_modality_and_of_the_display(tmp_path):
    steps = [5, 50, 500, 1000]
    path = written(tmp_path, DEEP % 8, ModalityLUTSequence=table(2, steps), WindowCenter=400, WindowWidth=1200)
    looked_up = lambda x: steps[min(max(x - 2, 0), 3)]  # noqa: E731
    assert_shows(read_dicom(path), DEEP % 8, lambda x: by_formula(looked_up(x), 400, 1200))
    path = written(tmp_path, DEEP % 8, VOILUTSequence=table(2, steps, bits=10), WindowCenter=1, WindowWidth=2)
    assert_shows(read_dicom(path), DEEP % 8, lambda x: 255 * looked_up(x) / 1023)
    signed = (DEEP % 8).astype(np.int16) - 4
    path = written(tmp_path, signed, VOILUTSequence=table(-3, steps, bits=10))
    assert_shows(read_dicom(path), signed, lambda x: 255 * steps[min(max(x + 3, 0), 3)] / 1023)


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables_of_more_than_256_entries_of_8_bits(tmp_path, sequence):
    curve = [int(255 * (x / 4095) ** 2) for x in range(4096)]
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 8]
    item.add_new("LUTData", "OW", bytes(curve))
    window = {"WindowCenter": 128, "WindowWidth": 256}  # as the modality table's entries are
    for entries in (table(0, curve, bits=8), [item]):
        path = written(tmp_path, DEEP, bits=12, **{sequence: entries}, **window)
        assert_shows(read_dicom(path), DEEP, lambda x: curve[x])


def test_a_display_table_after_rescaling_beyond_16_bits(tmp_path):
    fields = {"RescaleSlope": "100", "RescaleIntercept": "0", "VOILUTSequence": table(0, range(1024), bits=10)}
    path = written(tmp_path, DEEP, bits=12, **fields)
    assert_shows(read_dicom(path), DEEP, lambda x: 255 * min(100 * x, 1023) / 1023)


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ],
)
def test_the_encoding_makes_no_difference(tmp_path, syntax):
    path = written(tmp_path, DEEP, bits=12, syntax=syntax, WindowCenter=1500, WindowWidth=2000)
    assert_shows(read_dicom(path), DEEP, lambda x: by_formula(x, 1500, 2000))


def jpeg(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return encapsulate([buffer.getvalue()])


def test_compressed_pixels_that_pillow_reads(tmp_path):
    smooth = np.add.outer(np.linspace(0, 120, 32), np.linspace(0, 120, 40)).astype(np.uint8)
    fields = {"WindowCenter": 128, "WindowWidth": 256}
    path = written(tmp_path, smooth, syntax=JPEGBaseline8Bit, data=jpeg(smooth, quality=95), **fields)
    assert abs(read_dicom(path).astype(int) - smooth).max() <= 4
    if not get_decoder(JPEG2000Lossless).is_available:
        pytest.skip("Pillow is built without JPEG 2000")
    lossless = jpeg(smooth, "JPEG2000", irreversible=False, no_jp2=True)
    path = written(tmp_path, smooth, syntax=JPEG2000Lossless, data=lossless, **fields)
    assert np.array_equal(read_dicom(path), smooth)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_what_nothing_installed_reads_says_what_to_install(tmp_path, syntax, monkeypatch):
    monkeypatch.setattr(type(get_decoder(syntax)), "is_available", False)
    path = written(tmp_path, DEEP, syntax=syntax, data=encapsulate([b"\xff\xd8\xff\xd9"]))
    with pytest.raises(UserError, match=r"image\.dcm is compressed as JPEG.*pip install 'hardneg-plugin\[dicom\]'"):
        read_dicom(path)


def test_colour_becomes_luminance(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    luminance = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_dicom(written(tmp_path, colour)) - luminance).max() <= 1
    full_range = np.array(Image.fromarray(colour).convert("YCbCr"))
    path = written(tmp_path, full_range, PhotometricInterpretation="YBR_FULL")
    assert np.abs(read_dicom(path) - luminance).max() <= 3


def test_read_grayscale_knows_a_dicom_by_its_content(tmp_path):
    path = written(tmp_path, DEEP, WindowCenter=1500, WindowWidth=2000).rename(tmp_path / "image.png")
    assert torch.equal(read_grayscale(path, shorter_side=4), torch.from_numpy(read_dicom(path))[None])
    Image.fromarray(DEEP.astype(np.uint8)).save(tmp_path / "image.dcm", "PNG")
    assert torch.equal(read_grayscale(tmp_path / "image.dcm")[0], torch.from_numpy(DEEP.astype(np.uint8)))


REFUSED = {
    "several frames": ({"NumberOfFrames": 2}, "one frame.* has 2"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR of 16"),
    "colour of 16 bits": ({"PhotometricInterpretation": "RGB"}, "RGB of 16"),
    "32 bits": ({"BitsAllocated": 32}, "MONOCHROME2 of 32"),
    "no rows": ({"Rows": 0}, "30 x 0"),
    "too many pixels": ({"Rows": 65535, "Columns": 65535}, f"{MAX_PIXELS:,} pixels.* 65535 x 65535"),
    "fewer bytes than pixels": ({"Rows": 60}, "cannot be read"),
    "unknown function": ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "CUBIC"),
    "short table": ({"VOILUTSequence": table(0, [1, 2])}, "4 entries .* has 2"),
    "strip": ({"Rows": 2, "Columns": 300}, "at most 10:1.* 300 x 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_radiograph_is_refused_in_one_line(tmp_path, case):
    fields, message = REFUSED[case]
    if case == "short table":
        fields["VOILUTSequence"][0].LUTDescriptor = [4, 0, 16]
    with pytest.raises(UserError, match=message) as caught:
        read_grayscale(written(tmp_path, DEEP, **fields))
    assert "image.dcm" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "missing", ["PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation"]
)
def test_a_missing_field_is_a_user_error(tmp_path, missing):
    made = dataset(DEEP)
    del made[missing]
    made.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match=r"image\.dcm"):
        read_dicom(tmp_path / "image.dcm")


def test_a_missing_file_and_another_kind_of_file_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.dcm"):
        read_dicom(tmp_path / "nothing.dcm")
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(UserError, match=r"text\.dcm"):
        read_dicom(tmp_path / "text.dcm")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_broken_bytes_raise_nothing_but_user_errors(tmp_path, syntax):
    lut = {"ModalityLUTSequence": table(0, range(64)), "WindowCenter": "30\\40", "WindowWidth": "50\\60"}
    path = written(tmp_path, DEEP % 64, syntax=syntax, **lut)
    whole, draw, errors = path.read_bytes(), random.Random(0), []
    for turn in range(200):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            broken[draw.randrange(132, len(broken) if turn % 2 else 700)] = draw.randrange(256)
        path.write_bytes(broken[: draw.randrange(200, len(broken))] if turn % 5 == 0 else broken)
        try:
            assert read_dicom(path).dtype == np.uint8
        except UserError as error:
            errors.append(str(error))
    assert 40 < len(errors) <= 200
    assert not any("\n" in error for error in errors)


def test_reading_other_images_needs_no_pydicom(tmp_path, monkeypatch):
    Image.fromarray(DEEP.astype(np.uint8)).save(tmp_path / "image.png")
    monkeypatch.setitem(sys.modules, "pydicom", None)  # an import of it fails
    for module in ("hardneg_plugin.data.images", "hardneg_plugin.data.dicom"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    fresh = importlib.import_module("hardneg_plugin.data.images")
    assert tuple(fresh.read_grayscale(tmp_path / "image.png").shape) == (1, 20, 30)


def test_files_of_others(tmp_path):
    """What pydicom ships, made by real devices."""
    read = {}
    for name in (
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "examples_rgb_color.dcm",
    ):
        path = pydicom.data.get_testdata_file(name, download=False)
        if path is None:
            pytest.skip("this pydicom comes without its test files")
        read[name] = read_grayscale(Path(path))
    assert torch.equal(read["MR_small.dcm"], read["MR_small_RLE.dcm"])
    assert torch.equal(read["MR_small.dcm"], read["MR_small_bigendian.dcm"])
    assert all(image.max() > 240 and image.float().std() > 20 for image in read.values())
