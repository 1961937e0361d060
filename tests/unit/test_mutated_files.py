"""Whatever a file of data holds, it is read, or told in one line: no other error, no hang, no memory that it does not need.

Whole files are mutated by seeds that do not change, so that a failure comes again: bytes, pieces, tokens that upset parsers, and
the values of JSON and of the headers of DICOM.
"""

import gzip
import io
import json
import random
import resource
import signal
import struct
import warnings
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.boxes import BoxTable
from hardneg_plugin.data.downloads.archives import Member
from hardneg_plugin.data.downloads.iu_xray import read_report
from hardneg_plugin.data.downloads.listed import ListedStudies, images_of_studies
from hardneg_plugin.data.downloads.mimic_tables import Labels, read_metadata
from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.chexpert import CONDITIONS
from hardneg_plugin.metrics.label_files import read_labels
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import read_predictions
from hardneg_plugin.neighbours.table import read_neighbours
from hardneg_plugin.runs.checkpoint import read_checkpoint
from hardneg_plugin.runs.yaml_file import read_yaml

pytestmark = pytest.mark.slow

LONGEST = 10
"""Seconds for one file: hundreds of times what one takes."""
MOST = 300 * 2**20
"""Bytes that all of them may add to the peak of this process."""
TOKENS = [
    *(
        b"null",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1",
        b"0",
        b"true",
        b"{}",
        b"[]",
        b'""',
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\0",
    ),
    *(
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"\\ud800"',
        b"[" * 3000,
        b"9" * 5000,
        b"../",
        b"\x1b[2J",
        "\u2028".encode(),
        b"|",
        b";",
    ),
]
ODD = [
    *(
        None,
        True,
        -1,
        0,
        2**31,
        2**63,
        1e308,
        float("nan"),
        float("inf"),
        "",
        " ",
        "nan",
        "../x",
        "\0",
        "\ud800",
        [],
        {},
    ),
    *([[]], [None], "x" * 10_000, {"a": {}}),
]


@contextmanager
def in_time():
    """A hang is a failure, not a wait."""

    def stop(*_):
        raise AssertionError(f"longer than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutated(content, draw):
    """A few changes of bytes."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place, kind = draw.randrange(len(made) + 1), draw.randrange(6)
        end = min(len(made), place + draw.choice((1, 2, 8, 64)))
        if kind == 0 and place < len(made):
            made[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            made[place:end] = draw.randbytes(end - place)
        elif kind == 2:
            del made[place:end]
        elif kind == 3:
            made[place:place] = made[place:end] * draw.choice((1, 2, 50))
        elif kind == 4:
            made[place:place] = draw.choice(TOKENS)
        elif draw.random() < 0.3:
            del made[place:]
    return bytes(made)


def with_odd_value(value, draw):
    """Plain values with another one in one place, or with a key less or more."""
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], with_odd_value(value[place], draw), *value[place + 1 :]]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        rest = {name: inner for name, inner in value.items() if name != key}
        if draw.random() < 0.1:
            return rest | {draw.choice(("", "id", "x", "\ud800")): value[key]}
        return rest if draw.random() < 0.1 else rest | {key: with_odd_value(value[key], draw)}
    return draw.choice(ODD)


def check(path, contents, read):
    """Read each content as that file; returns how many were read and how many told."""
    before, outcomes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [0, 0]
    for number, content in enumerate(contents):
        path.write_bytes(content)
        told = ""
        try:
            with in_time(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            outcomes[0] += 1
        except UserError as error:
            outcomes[1] += 1
            told = str(error)
        except Exception as error:
            kept = path.with_name(f"failed_{number}{path.suffix}")
            kept.write_bytes(content)
            raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error
        assert "\n" not in told, (number, told)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST
    assert min(outcomes) > 0, outcomes  # both happen, so the mutations are neither idle nor all fatal


def bytes_and_values(content, write, seed, count):
    """Half of them mutated as bytes, half as values."""
    draw, whole = random.Random(seed), write(content)
    yield whole
    for _ in range(count // 2):
        yield mutated(whole, draw)
        yield write(with_odd_value(content, draw))


def as_json(content):
    return json.dumps(content).encode()


def as_jsonl(content):
    return b"".join(json.dumps(row).encode() + b"\n" for row in (content if isinstance(content, list) else [content]))


def bytes_of(content, seed, count):
    draw = random.Random(seed)
    return [content, *(mutated(content, draw) for _ in range(count))]


ENTRIES = [
    {"id": f"s{i}", "images": ["a.png"], "findings": "Clear.", "patient": i, "labels": ["x", "y"], "split": split}
    for i, split in enumerate(("train", "val", "test"))
]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for folder in (tmp_path, tmp_path / "images"):
        Image.new("L", (24, 24)).save(folder / "a.png")
    return tmp_path


def test_annotations(images):
    entry = {"report": "Clear.", "image_path": ["a.png"], "patient": 1, "labels": ["x"]}
    content = {split: [entry | {"id": f"{split}{i}"} for i in range(2)] for split in SPLITS}
    file = images / "annotation.json"
    contents = bytes_and_values(content, as_json, 0, 400)
    check(file, contents, lambda path: AnnotatedStudies(images, resize=16, crop=16, check="stat").split("train")[0])


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_listed_studies_in_json(images, name):
    write = as_json if name == "t.json" else as_jsonl
    check(images / name, bytes_and_values(ENTRIES, write, 1, 300), lambda path: list(ListedStudies(path)))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_listed_studies_in_tables(images, name):
    between = "," if name == "t.csv" else "\t"
    rows = [["StudyID", "Image", "Report", "Labels", "Split"]]
    rows += [[f"s{i}", "a.png", "Clear.", "['x', \"y's\"]", split] for i, split in enumerate(SPLITS)]
    content = "\n".join(
        between.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in rows
    ).encode()
    check(images / name, bytes_of(content, 2, 400), lambda path: (list(ListedStudies(path)), images_of_studies(path)))


def test_predictions_and_their_scores(tmp_path):
    texts = ["no effusion .", "small left effusion .", "clear lungs .", "large heart ."]
    record = {"patient": "p", "labels": "x", "measured": {"loss": 1.5, "tokens": 4}, "scores": {"BLEU-4": 0.5}}
    findings = {"reference": [["effusion", [["side", "left"]]]], "generated": []}
    content = [
        {"id": f"s{i}", "reference": text, "generated": texts[i - 1], "findings": findings, "cut_reference": text}
        | record
        for i, text in enumerate(texts)
    ]
    caption = CaptionScores(meteor=False)
    contents = bytes_and_values(content, as_jsonl, 3, 400)
    check(tmp_path / "p.jsonl", contents, lambda path: score_records(read_predictions(path), caption=caption))


def test_mined_tables_in_json(tmp_path):
    check(tmp_path / "t.json", bytes_and_values({"a": ["b", "c"], "b": ["a"]}, as_json, 4, 300), read_neighbours)


def test_released_annotations_with_negatives(tmp_path):
    entry = {"report": "Clear.", "image_path": ["a.png"], "neg_report": "Effusion.", "neg_image_path": ["b.png"]}
    other = {
        "id": "b",
        "report": "Effusion.",
        "image_path": ["b.png"],
        "neg_report": "Clear.",
        "neg_image_path": ["a.png"],
    }
    contents = bytes_and_values({"train": [entry | {"id": "a"}, other]}, as_json, 5, 300)
    check(tmp_path / "t.json", contents, read_neighbours)


def test_mined_tables_in_parquet(tmp_path):
    stream = io.BytesIO()
    table = {"study": ["a", "b", "c"], "neighbours": [["b", "c"], ["a"], []], "scores": [[0.5, 0.4], [0.5], []]}
    pq.write_table(pa.table(table), stream)
    check(tmp_path / "t.parquet", bytes_of(stream.getvalue(), 6, 400), read_neighbours)


@pytest.mark.parametrize("name", ["studies.parquet", "prepared.json", "images"])
def test_prepared_folders(images, name):
    studies = [OriginalStudy(f"s{i}", (images / "a.png",), report="Clear.", split=SPLITS[i % 3]) for i in range(6)]
    root = images / "prepared"
    build(studies, root, PrepareSettings(section="report", size=24))
    file = root / name if name != "images" else next((root / "images").iterdir())
    whole = file.read_bytes()

    def read(_):
        source = PreparedStudies(root, resize=24, crop=16, check="checksums")
        source.image_keys()
        return [source.split(split)[0] for split in SPLITS]

    check(file, bytes_of(whole, 7, {"images": 40, "prepared.json": 100}.get(name, 300)), read)


def test_boxes(tmp_path):
    rows = [{"id": f"s{i}", "boxes": [[[0.1, 0.2, 0.5, 0.6], None]]} for i in range(3)]
    check(tmp_path / "b.jsonl", bytes_and_values(rows, as_jsonl, 8, 300), BoxTable)


def test_tables_of_mimic_cxr_and_of_labels(tmp_path):
    metadata = b"dicom_id,subject_id,study_id,ViewPosition\n" + b"".join(
        b"a%d,1000%d,5000%d,AP\n" % (i, i, i) for i in range(5)
    )
    check(tmp_path / "m.csv", bytes_of(metadata, 9, 200), lambda path: read_metadata(path, views=True))
    packed = gzip.compress(metadata, mtime=0)
    check(tmp_path / "m.csv.gz", bytes_of(packed, 10, 200), lambda path: read_metadata(path, views=True))
    labels = b"subject_id,study_id,Edema\n10001,50001,1.0\n10002,50002,-1.0\n10003,50003,\n"
    check(tmp_path / "l.csv", bytes_of(labels, 11, 200), Labels)
    chexpert = f"id,{','.join(CONDITIONS)}\na{',1' * 14}\nb{',' * 14}\n".encode()
    check(tmp_path / "c.csv", bytes_of(chexpert, 12, 200), lambda path: read_labels(path, "id"))


def test_reports_of_iu_xray(tmp_path):
    report = (
        b'<eCitation><uId id="CXR1"/><MedlineCitation><Abstract><AbstractText Label="FINDINGS">Clear.</AbstractText>'
        b'</Abstract></MedlineCitation><MeSH><major>normal</major></MeSH><parentImage id="CXR1_1_IM-0001-3001"/></eCitation>'
    )
    contents = bytes_of(report, 13, 300)
    check(tmp_path / "r.xml", contents, lambda path: read_report(Member(path.name, path.read_bytes()), tmp_path))


def test_configs_and_checkpoints_of_runs(tmp_path):
    config = b"data: {root: x}\nmodel:\n  _target_: a.B\n  layers: [1, 2]\ndecoding: {beam_size: 3}\n"
    check(tmp_path / "config.yaml", bytes_of(config, 14, 200), read_yaml)
    stream = io.BytesIO()
    content = {"state_dict": {"weight": torch.zeros(3)}, "tokenizer": {"kind": "words"}, "backbone": {}}
    torch.save(content, stream)
    check(tmp_path / "best.ckpt", bytes_of(stream.getvalue(), 15, 150), read_checkpoint)


def values_of(draw):
    """Elements of a header, most of them as they should be."""
    sane = {
        "Rows": 20, "Columns": 30, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
    }  # fmt: skip
    odd = {
        "Rows": (0, 1, 65535), "Columns": (0, 29, 65535), "BitsAllocated": (0, 1, 8, 12, 32, 64), "BitsStored": (0, 1, 8, 16, 99),
        "HighBit": (0, 7, 15, 200), "PixelRepresentation": (1, 2, 65535), "SamplesPerPixel": (0, 3, 4, 65535),
        "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL", "CMYK", ""),
    }  # fmt: skip
    more = {
        "PixelPaddingValue": (0, 1, 4095, 65535), "PixelPaddingRangeLimit": (0, 4095, 65535), "NumberOfFrames": ("0", "2", "-1"),
        "WindowCenter": ("0", "1e300", "-5", "nan", "1\\2", ""), "WindowWidth": ("0", "1", "-1", "inf", "400\\1", ""),
        "RescaleSlope": ("0", "-1", "1e300", "nan", "1e-300"), "RescaleIntercept": ("0", "-1024", "1e308", "inf"),
        "PlanarConfiguration": (0, 1, 7), "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "x"),
    }  # fmt: skip
    made = dict(sane)
    for name in draw.sample(list(odd), draw.choice((0, 0, 1, 2))):
        made[name] = draw.choice(odd[name])
    for name in draw.sample(list(more), draw.randrange(4)):
        made[name] = draw.choice(more[name])
    if draw.random() < 0.2:
        del made[draw.choice(list(made))]
    return made


TAGS = {
    "SamplesPerPixel": (0x0002, b"US"), "PhotometricInterpretation": (0x0004, b"CS"), "PlanarConfiguration": (0x0006, b"US"),
    "NumberOfFrames": (0x0008, b"IS"), "Rows": (0x0010, b"US"), "Columns": (0x0011, b"US"), "BitsAllocated": (0x0100, b"US"),
    "BitsStored": (0x0101, b"US"), "HighBit": (0x0102, b"US"), "PixelRepresentation": (0x0103, b"US"),
    "PixelPaddingValue": (0x0120, b"US"), "PixelPaddingRangeLimit": (0x0121, b"US"), "WindowCenter": (0x1050, b"DS"),
    "WindowWidth": (0x1051, b"DS"), "RescaleIntercept": (0x1052, b"DS"), "RescaleSlope": (0x1053, b"DS"),
    "VOILUTFunction": (0x1056, b"CS"),
}  # fmt: skip


def dicom(draw, start):
    """A file with such a header, written by hand: pydicom would refuse to."""
    elements = []
    for name, value in values_of(draw).items():
        tag, kind = TAGS[name]
        content = struct.pack("<H", value) if kind == b"US" else value.encode()
        if draw.random() < 0.05:
            kind = draw.choice((b"US", b"SS", b"DS", b"UN", b"LO", b"FD"))
        content += b" " * (len(content) % 2)
        long = struct.pack("<HI", 0, len(content)) if kind == b"UN" else struct.pack("<H", len(content))
        elements.append((tag, struct.pack("<HH2s", 0x28, tag, kind) + long + content))
    if draw.random() < 0.3:  # a lookup table
        count = draw.choice((0, 1, 64, 65535))
        item = struct.pack("<HH2sHHHH", 0x28, 0x3002, b"US", 6, count, 0, draw.choice((0, 8, 12, 16, 40)))
        item += struct.pack("<HH2sHI", 0x28, 0x3006, b"OW", 0, 128) + bytes(range(128))
        nested = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
        tag = draw.choice((0x3000, 0x3010))
        elements.append((tag, struct.pack("<HH2sHI", 0x28, tag, b"SQ", 0, draw.choice((len(nested), 2**31))) + nested))
    body = b"".join(content for _, content in sorted(elements))
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 4096, 600).astype("<u2").tobytes()
    body += struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, draw.choice((1200, 1200, 1200, 1198, 2**32 - 1))) + pixels
    return start + (mutated(body, draw) if draw.random() < 0.3 else body)


def test_headers_of_dicom(tmp_path):
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

    starts = []
    for syntax in (ExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless):
        meta, stream = FileMetaDataset(), DicomBytesIO()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = syntax, "1.2", "1.2.3"
        stream.write(bytes(128) + b"DICM")
        write_file_meta_info(stream, meta)
        starts.append(stream.getvalue())
    draw = random.Random(16)
    check(tmp_path / "image.dcm", [dicom(draw, starts[number % 4]) for number in range(900)], read_grayscale)
