"""Files that become much larger in memory than on the disk: told in one line, and before the memory is taken.

One process reads them all (`read_in_turn`). Its peak before the bombs is that of good files of the same kinds.
"""

import gzip
import io
import json
import lzma
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pydicom = pytest.importorskip("pydicom")

MEGABYTE = 2**20
AT_MOST = 300 * MEGABYTE
"""Beyond what good files take."""


REASONS = {
    "deflated": "inflates to more",
    "items": "at most 100,000 elements",
    "run-lengths": "run lengths of 4096 pixels",
    "jpeg-within": "64 x 64 pixels, as its header says.* 12000 x 12000",
    "jp2-in-circles": "no length",
    "png": "exceeds limit",
    "png-below-pillows-limit": "50,000,000 pixels.* 12000 x 12000",
    "png16": "25,000,000 pixels.* 6000 x 6000",
    "jpeg": "50,000,000 pixels.* 12000 x 12000",
    "aliases": r"line 2 has the alias \*a",
    "many": "more than 20,000 values",
    "large": "more than 1,048,576 bytes",
    "deep": "nesting|recursion",
    "compressed": "is compressed",
    "shared": "at most 2,000,000 values",
    "expanded": "one of 4,000,000,000 bytes has fewer stored",
    "names": "bytes of names",
    "table.csv.gz": "inflates to more",
    "window.tar.xz": "[Mm]emory",
    "rows.parquet": "bytes in memory",
}
"""What is told of each."""


def zeros(count, *, raw=False, before=b"", after=b""):
    """Compressed zeros between other bytes, made piece by piece."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    parts = [deflater.compress(before)]
    for left in range(count, 0, -MEGABYTE):
        parts.append(deflater.compress(bytes(min(left, MEGABYTE))))
    return b"".join([*parts, deflater.compress(after), deflater.flush()])


def png(width, height, bits, colour, data):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def head(syntax):
    """Everything of a DICOM before its data set."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = DicomBytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    return buffer.getvalue()


def elements(rows, columns, kind=b"MONOCHROME2"):
    """The header of a gray image of 16 bits."""
    short = [(2, 1), (0x10, rows), (0x11, columns), (0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)]
    made = {element: struct.pack("<HH2sHH", 0x28, element, b"US", 2, value) for element, value in short}
    made[4] = struct.pack("<HH2sH", 0x28, 4, b"CS", len(kind) + len(kind) % 2) + kind + b" " * (len(kind) % 2)
    return b"".join(made[element] for element in sorted(made))


def pixels(length):
    return struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, length)


def encapsulated(frame):
    frame += bytes(len(frame) % 2)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame))
    return pixels(0xFFFFFFFF) + item + frame + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def good_images():
    side = 2000
    yield "png", png(side, side, 8, 2, zeros((3 * side + 1) * side))
    yield "png16", png(side, side, 16, 2, zeros((6 * side + 1) * side))
    deflated = pydicom.uid.DeflatedExplicitVRLittleEndian
    values = zeros(2 * side * side, raw=True, before=elements(side, side) + pixels(2 * side * side))
    yield "deflated", head(deflated) + values


def image_bombs():
    deflated, run_lengths = pydicom.uid.DeflatedExplicitVRLittleEndian, pydicom.uid.RLELossless
    small = elements(64, 64)
    yield "deflated", head(deflated) + zeros(800 * MEGABYTE, raw=True, before=small + pixels(800 * MEGABYTE))
    items = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    sequence = struct.pack("<HH2sHI", 0x28, 0x3000, b"SQ", 0, 0xFFFFFFFF)
    body = items.compress(sequence) + b"".join(
        items.compress(struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 2**16) for _ in range(64)
    )
    yield "items", head(deflated) + body + items.flush()
    segment = struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0" * (12 * MEGABYTE)
    yield "run-lengths", head(run_lengths) + small + encapsulated(segment)
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 12000, 12000, 1) + b"\1\x11\0\xff\xd9"
    yield "jpeg-within", head(pydicom.uid.JPEGBaseline8Bit) + small + encapsulated(jpeg)
    endless = struct.pack(">I4sI4s", 12, b"jP  ", 0x0D0A870A, b"\0\0\0\0") + b"ftyp" + bytes(100)
    yield "jp2-in-circles", head(pydicom.uid.JPEG2000Lossless) + small + encapsulated(endless)
    yield "png", png(30_000, 20_000, 8, 6, zeros(MEGABYTE))
    yield "png-below-pillows-limit", png(12_000, 12_000, 8, 6, zeros(4 * 12_000 * 12_000))
    yield "png16", png(6000, 6000, 16, 6, zeros(MEGABYTE))
    yield "jpeg", jpeg


def checkpoint(**more):
    return {"state_dict": {"weight": torch.zeros(10)}, "tokenizer": {"kind": "words"}, "backbone": {}} | more


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def compressed_weights():
    """A checkpoint whose one tensor is 150 million zeros, compressed."""
    few, many = 1_000_003, 150_000_000
    stream, plain = (
        io.BytesIO(),
        zipfile.ZipFile(io.BytesIO(saved(checkpoint(state_dict={"weight": torch.zeros(few)})))),
    )
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            with archive.open(name, "w", force_zip64=True) as file:
                if name.endswith("data/0"):
                    for _ in range(4 * many // 10**6):
                        file.write(bytes(10**6))
                else:
                    file.write(plain.read(name).replace(struct.pack("<I", few), struct.pack("<I", many)))
    return stream.getvalue()


def many_names():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(300):
            archive.writestr(f"{number}" + "x" * 60_000, b"")
    return stream.getvalue()


def wide_window():
    """An .xz whose header asks for a dictionary of 4 GB."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    made = bytearray(lzma.compress(stream.getvalue()))
    end = 12 + 4 * (made[12] + 1)
    place = made.index(b"\x21\x01", 12, end)
    made[place + 2] = 40
    made[end - 4 : end] = zlib.crc32(made[12 : end - 4]).to_bytes(4, "little")
    return bytes(made)


def neighbours(rows, times):
    stream = io.BytesIO()
    schema = pa.schema([("study", pa.string()), ("neighbours", pa.list_(pa.string()))])
    with pq.ParquetWriter(stream, schema) as writer:
        for _ in range(times):
            studies = [f"s{row}" for row in range(rows)] if times == 1 else ["x" * 100] * rows
            writer.write_table(pa.table({"study": studies, "neighbours": [[]] * rows}, schema=schema))
    return stream.getvalue()


def good_others():
    yield "yaml-good", b"a: {b: [1, 2]}\n"
    yield "checkpoint-good", saved(checkpoint())
    yield "released-good", saved({"state_dict": {"weight": torch.zeros(10)}})
    yield "table-good.csv.gz", gzip.compress(b"study_id\n" + b"1\n" * 10**6)
    yield "archive-good", zip_of_one()
    yield "neighbours-good.parquet", neighbours(1000, 1)


def zip_of_one():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.xml", b"a")
    return stream.getvalue()


def other_bombs():
    names = "abcdefghij"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in pairwise(names)]
    yield "yaml-aliases", "\n".join(lines).encode()
    yield "yaml-many", b"a: [" + b"1, " * 100_000 + b"1]"
    yield "yaml-large", b"a: '" + b"x" * 2**20 + b"'"
    yield "yaml-deep", b"[" * 5000 + b"]" * 5000
    yield "checkpoint-compressed", compressed_weights()
    yield "released-compressed", compressed_weights()
    shared: list[object] = []
    for _ in range(40):
        shared = [shared, shared]
    yield "checkpoint-shared", saved(checkpoint(tokenizer={"kind": "words", "vocabulary": shared}))
    yield "checkpoint-expanded", saved(checkpoint(state_dict={"weight": torch.zeros(1).expand(10**9)}))
    yield "checkpoint-names", many_names()
    deflater = gzip.compress(b"1\n" * (150 * MEGABYTE), 1)
    yield "table-table.csv.gz", gzip.compress(b"study_id\n") + deflater
    yield "archive-window.tar.xz", wide_window()
    yield "neighbours-rows.parquet", neighbours(100_000, 60)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What came of each file."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, content in good_images():
        (folder / f"image-good-{name}").write_bytes(content)
    for name, content in image_bombs():
        (folder / f"image-{name}").write_bytes(content)
    for name, content in (*good_others(), *other_bombs()):
        (folder / name).write_bytes(content)
    script = Path(__file__).with_name("read_in_turn.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_good_files_are_read(read):
    good = [file for file in read if "good" in file["name"]]
    assert len(good) == 9
    assert [file["told"] for file in good] == [None] * len(good)


@pytest.mark.slow
def test_bombs_are_told_in_a_line_that_names_them(read):
    bombs = [file for file in read if "good" not in file["name"]]
    assert {file["name"].partition("-")[2] for file in bombs} == set(REASONS)
    for file in bombs:
        assert re.search(REASONS[file["name"].partition("-")[2]], file["told"]), file
        assert file["name"] in (file["told"] or ""), file
        assert "\n" not in file["told"]


@pytest.mark.slow
def test_bombs_take_no_memory(read):
    assert sum(file["more"] for file in read if "good" not in file["name"]) < AT_MOST, read
