import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.errors import UserError

GRAY = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height, width):
    return np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width)).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_gray_pixels_come_through_every_png_mode(tmp_path, mode):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(GRAY).convert(mode)))
    image = read_grayscale(path)
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(GRAY)[None])


def test_colour_becomes_luminance_and_a_palette_with_transparency_does_not_warn(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "colour.png").write_bytes(encoded(Image.fromarray(colour)))
    luminance = torch.from_numpy(colour @ np.array([0.299, 0.587, 0.114]))
    assert (read_grayscale(tmp_path / "colour.png")[0] - luminance).abs().max() <= 1
    palette = Image.fromarray(GRAY).convert("P")
    (tmp_path / "palette.png").write_bytes(encoded(palette, transparency=bytes(range(256))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_grayscale(tmp_path / "palette.png"), torch.from_numpy(GRAY)[None])


def test_sixteen_bits_are_scaled_by_the_own_range(tmp_path):
    values = np.random.default_rng(2).integers(1000, 4096, (10, 12)).astype(np.uint16)  # 12 bits in a 16-bit file
    path = tmp_path / "deep.png"
    path.write_bytes(encoded(Image.fromarray(values)))
    image = read_grayscale(path)[0]
    low, high = int(values.min()), int(values.max())
    for row in range(10):
        for column in range(12):
            assert abs(int(image[row, column]) - 255 * (int(values[row, column]) - low) / (high - low)) <= 0.51
    path.write_bytes(encoded(Image.fromarray(np.full((4, 4), 7, np.uint16))))
    assert torch.equal(read_grayscale(path), torch.zeros(1, 4, 4, dtype=torch.uint8))


def png16(channels, exif=b""):
    """A PNG of 16 bits by hand: gray, gray and alpha, RGB or RGBA, `(H, W, 1 to 4)`."""
    height, width, count = channels.shape
    rows = channels.astype(">u2").tobytes()
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[start : start + stride] for start in range(0, len(rows), stride))
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    chunks = [(b"IHDR", head), *([(b"eXIf", exif)] if exif else []), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def twelve_bits(*shape):
    return np.random.default_rng(5).integers(0, 4096, shape).astype(np.uint16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_in_every_kind_of_png_are_scaled_alike(tmp_path, channels):
    gray = twelve_bits(300, 40)  # more rows than are scaled at a time
    alpha = np.random.default_rng(6).integers(0, 65536, gray.shape).astype(np.uint16)
    planes = {1: [gray], 2: [gray, alpha], 3: [gray] * 3, 4: [gray, gray, gray, alpha]}[channels]
    (tmp_path / "deep.png").write_bytes(png16(np.stack(planes, -1)))
    image = read_grayscale(tmp_path / "deep.png", shorter_side=8)[0].numpy()
    low, high = int(gray.min()), int(gray.max())
    assert np.abs(image - 255 * (gray.astype(float) - low) / (high - low)).max() <= 0.51


def test_colour_of_sixteen_bits_becomes_luminance(tmp_path):
    colour = twelve_bits(9, 11, 3)
    (tmp_path / "deep.png").write_bytes(png16(colour))
    luminance = colour @ np.array([0.299, 0.587, 0.114])
    expected = 255 * (luminance - luminance.min()) / np.ptp(luminance)
    assert np.abs(read_grayscale(tmp_path / "deep.png")[0].numpy() - expected).max() <= 0.6


@pytest.mark.parametrize("channels", [1, 3])
def test_exif_orientation_of_sixteen_bits(tmp_path, channels):
    gray = twelve_bits(4, 7)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "deep.png").write_bytes(png16(np.stack([gray] * channels, -1), exif.tobytes()[6:]))
    plain = tmp_path / "plain.png"
    plain.write_bytes(png16(np.stack([gray] * channels, -1)))
    turned, upright = (read_grayscale(file)[0].numpy() for file in (tmp_path / "deep.png", plain))
    assert np.array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "turned.png").write_bytes(encoded(Image.fromarray(GRAY), exif=exif))
    shown = [
        GRAY,
        GRAY[:, ::-1],
        GRAY[::-1, ::-1],
        GRAY[::-1],
        GRAY.T,
        np.rot90(GRAY, -1),
        GRAY[::-1, ::-1].T,
        np.rot90(GRAY),
    ]
    assert np.array_equal(read_grayscale(tmp_path / "turned.png")[0].numpy(), shown[orientation - 1])


def test_pixels_of_one_bit_of_a_palette_and_of_inks(tmp_path):
    bits = GRAY > 127
    (tmp_path / "bits.png").write_bytes(encoded(Image.fromarray(bits)))
    assert np.array_equal(read_grayscale(tmp_path / "bits.png")[0].numpy(), 255 * bits)
    colours = Image.fromarray(np.random.default_rng(4).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    palette = colours.quantize(32)
    (tmp_path / "palette.png").write_bytes(encoded(palette))
    luminance = np.array(palette.convert("RGB")) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_grayscale(tmp_path / "palette.png")[0].numpy() - luminance).max() <= 1
    inks = Image.fromarray(smooth(24, 32)).convert("CMYK")
    (tmp_path / "inks.jpg").write_bytes(encoded(inks, "JPEG", quality=95))
    assert np.abs(read_grayscale(tmp_path / "inks.jpg")[0].numpy().astype(int) - smooth(24, 32)).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_large_jpeg_is_decoded_small_but_not_below_what_is_needed(tmp_path, mode):
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(Image.fromarray(smooth(1000, 1200)).convert(mode), "JPEG", quality=95))
    full, small = read_grayscale(path), read_grayscale(path, shorter_side=224)
    assert full.shape == (1, 1000, 1200)
    assert small.shape == (1, 250, 300)
    by_blocks = full.float().unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
    assert (small - by_blocks).abs().max() < 4


def test_exif_orientation_is_applied(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    path.write_bytes(encoded(Image.fromarray(smooth(16, 40)), "JPEG", quality=100, exif=exif))
    turned = read_grayscale(path)
    assert turned.shape == (1, 40, 16)
    assert (turned[0].int() - torch.from_numpy(np.rot90(smooth(16, 40), -1).copy()).int()).abs().max() < 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, kind):
    whole = encoded(Image.fromarray(GRAY), kind)
    path = tmp_path / "cut.bin"
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match=r"cut\.bin"):
            read_grayscale(path)


@pytest.mark.parametrize("image", ["PNG", "JPEG"])
def test_broken_bytes_raise_nothing_but_user_errors(tmp_path, image):
    whole, path, draw = encoded(Image.fromarray(GRAY), image), tmp_path / "broken", random.Random(0)
    errors = 0
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            assert read_grayscale(path).dtype == torch.uint8
        except UserError:
            errors += 1
    assert 20 < errors <= 150


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(tmp_path, kind):
    (tmp_path / "image.png").write_bytes(encoded(Image.fromarray(GRAY), kind))
    with pytest.raises(UserError, match="PNG, JPEG or DICOM"):
        read_grayscale(tmp_path / "image.png")


def test_a_decompression_bomb_a_strip_and_a_missing_file_are_user_errors(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nothing\.png"):
        read_grayscale(tmp_path / "nothing.png")
    (tmp_path / "strip.png").write_bytes(encoded(Image.fromarray(np.zeros((2, 21), np.uint8))))
    with pytest.raises(UserError, match=r"at most 10:1.*21 x 2"):
        read_grayscale(tmp_path / "strip.png")
    (tmp_path / "bomb.png").write_bytes(encoded(Image.fromarray(GRAY)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"bomb\.png.*decompression bomb"):
        read_grayscale(tmp_path / "bomb.png")
