import json
import multiprocessing
import pickle
import shutil
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.data.study_table import SCHEMA, Columns, TextColumn
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError

SIZE, CROP = 24, 20
FILES = {  # sizes of each kind: larger and smaller than prepared, of that size, and a JPEG that is decoded at a half or less
    "a": [("0.png", (40, 30)), ("1.jpg", (90, 80))],
    "b": [("0.png", (SIZE, 31))],
    "c": [("0.png", (12, 15)), ("1.jpg", (200, 130))],
    "d": [("0.png", (33, 24))],
    "e": [("0.jpg", (100, 300))],
}
SPLIT_OF = {"a": "train", "b": "train", "c": "train", "d": "val", "e": "test"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The same files in the R2Gen layout and, below it, prepared."""
    home = tmp_path_factory.mktemp("data")
    annotation = {"train": [], "val": [], "test": []}
    source = []
    for seed, (name, views) in enumerate(FILES.items()):
        paths = [home / "images" / name / file for file, _ in views]
        for view, (path, (_, size)) in enumerate(zip(paths, views, strict=True)):
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng((seed, view)).integers(0, 256, (9, 9), dtype=np.uint8)
            Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR).save(path)
        entry = {"id": name, "report": f"Report {name}.", "image_path": [f"{name}/{path.name}" for path in paths]}
        extra = {"a": {"patient": "p", "labels": "x|y"}, "b": {"labels": ""}}.get(name, {})
        annotation[SPLIT_OF[name]].append(entry | extra)
        source.append(OriginalStudy(name, tuple(paths), f"Report {name}.", split=SPLIT_OF[name], **extra))
    (home / "annotation.json").write_text(json.dumps(annotation))
    build(source, home / "prepared", PrepareSettings(size=SIZE), chunk=2)
    return home


@pytest.fixture
def root(home, tmp_path):
    shutil.copytree(home / "prepared", tmp_path / "prepared")
    return tmp_path / "prepared"


def read(root, **options):
    return PreparedStudies(root, **{"resize": SIZE, "crop": CROP} | options)


def error(root, **options):
    with pytest.raises(UserError) as caught:
        read(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(root, edit, schema=SCHEMA):
    rows = pq.read_table(root / "studies.parquet").to_pylist()
    rows = edit(rows) or rows
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / "studies.parquet")


def test_boxes_are_framed_as_of_the_files(home):
    of_a, of_c = ([[[0.1, 0.2, 0.5, 0.6], None], [None, [0.25, 0.5, 1, 1]]] for _ in range(2))
    file = home / "boxes.jsonl"
    file.write_text(
        "".join(json.dumps({"id": name, "boxes": boxes}) + "\n" for name, boxes in (("a", of_a), ("c", of_c)))
    )
    originals = AnnotatedStudies(home, resize=SIZE, crop=CROP, boxes=file).split("train")
    prepared = read(home / "prepared", boxes=file).split("train")
    for index, name in enumerate("abc"):
        for key in (index, (index, 3)):
            one, other = originals[key], prepared[key]
            assert one["id"] == other["id"] == name
            # to a pixel of the crop: shares of a side that was rounded when it was prepared
            torch.testing.assert_close(other["boxes"], one["boxes"], atol=1 / CROP, rtol=0, equal_nan=True)
            assert one["boxes"].isnan().all() == (name == "b")
    file.write_text(json.dumps({"id": "a", "boxes": of_a[:1]}))
    assert "expected boxes for the 2 views of study 'a', but got 1" in error(home / "prepared", boxes=file)


def test_training_samples_are_those_of_the_original_files(home):
    originals, prepared = AnnotatedStudies(home, resize=SIZE, crop=CROP), read(home / "prepared")
    for split in ("train", "val", "test"):
        theirs, ours = originals.split(split), prepared.split(split)
        assert (list(ours.ids), list(ours.reports), len(ours)) == (theirs.ids, theirs.reports, len(theirs))
        for index in range(len(ours)):
            for seed in range(20):
                one, other = theirs[index, seed], ours[index, seed]
                assert torch.equal(one.pop("images"), other.pop("images"))
                assert one == other


def test_whole_images_differ_by_the_second_resize_only(home):
    originals, prepared = AnnotatedStudies(home, resize=SIZE, crop=CROP), read(home / "prepared")
    differences = {}
    for split in ("train", "val", "test"):
        theirs, ours = originals.split(split), prepared.split(split)
        for index, name in enumerate(ours.ids):
            one, other = theirs[index]["images"], ours[index]["images"]
            assert one.shape == other.shape == (len(FILES[name]), 1, CROP, CROP)
            differences[name] = (one.float() - other.float()).abs().mean().item()
    assert differences["b"] == differences["d"] == 0  # their files were as large as prepared
    assert 0 < max(differences.values()) < 6  # of 255
    assert differences["a"] > 0


def test_a_smaller_size_than_prepared_is_close(home):
    originals, prepared = AnnotatedStudies(home, resize=21, crop=CROP), read(home / "prepared", resize=21)
    for seed in range(20):
        one, other = (source.split("val")[0, seed]["images"].float() for source in (originals, prepared))
        assert (one - other).abs().mean() < 6


def test_the_source_and_its_splits(root):
    source = read(root)
    train = source.split("train")
    assert source.split("train") is train
    assert source.read_findings("No left effusion.") == frozenset()
    assert read(root, findings=None).read_findings is None
    assert train[-1]["id"] == "c"
    assert torch.equal(train[-1]["images"], train[2]["images"])
    with pytest.raises(IndexError):
        train[3]
    with pytest.raises(ValueError, match="'valid'"):
        source.split("valid")


def test_texts_are_a_sequence():
    texts = TextColumn(pa.array(["a", "b", "ü", "b"]))
    assert (len(texts), texts[0], texts[-2], list(texts[1:3])) == (4, "a", "ü", ["b", "ü"])
    assert (list(texts), "ü" in texts, "x" in texts, texts.index("b"), texts.count("b")) == (
        *(["a", "b", "ü", "b"], True, False),
        *(1, 2),
    )
    for index in (4, -5):
        with pytest.raises(IndexError):
            texts[index]


def test_forked_workers_read_the_same(root):
    train = read(root).split("train")
    _ = train[0]
    tokenizer = WordTokenizer.from_reports(train.reports, min_count=1)
    loader = DataLoader(
        train,
        batch_size=1,
        collate_fn=StudyCollator(tokenizer, max_length=10),
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )
    for index, batch in enumerate(loader):
        assert batch["ids"] == [train.ids[index]]
        assert torch.equal(batch["images"][0], train[index]["images"])


def test_a_process_that_is_not_forked_reads_its_own_table(root):
    rewrite(root, lambda rows: [row | {"report": row["report"] * 1000} for row in rows])
    train = read(root).split("train")
    _ = train[0]
    pickled = pickle.dumps(train)
    assert len(pickled) < 2000
    copy = pickle.loads(pickled)
    assert list(copy.reports) == list(train.reports)
    assert torch.equal(copy[1, 5]["images"], train[1, 5]["images"])


def test_a_large_table_takes_no_object_per_study(tmp_path):
    studies = 20000
    row = {
        **dict.fromkeys(("report", "findings", "impression", "patient", "labels"), "a text of some length"),
        **dict.fromkeys(("shard", "offset", "checksum"), 0),
        **{name: [1] for name in ("heights", "widths")},
        "split": "train",
        "views": ["v"],
    }
    table = pa.Table.from_pylist([row | {"id": f"s{i}"} for i in range(studies)], schema=SCHEMA)
    pq.write_table(table, tmp_path / "studies.parquet")
    tracemalloc.start()
    columns = Columns(tmp_path / "studies.parquet", "train")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(columns.ids) == studies
    assert most < 30 * studies  # bytes of Python and NumPy: an empty text alone has 49


def test_the_size_is_at_most_that_of_the_folder(root):
    message = error(root, resize=SIZE + 1)
    assert f"at most {SIZE} pixels" in message
    assert f"size={SIZE + 1}" in message
    assert "crop=25" in error(root, crop=25)
    assert "'decode'" in error(root, check="decode")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_checksums_find_what_sizes_do_not(root):
    flip(root / "images" / "00001.bin", 3)
    read(root)
    assert "Study 'c'" in error(root, check="checksums")


def set_first(**values):
    return lambda root: rewrite(root, lambda rows: rows[0].update(values))


def cut_table(root):
    path = root / "studies.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def describe(root, content):
    (root / "prepared.json").write_text(json.dumps(content))


def without(name):
    def spoil(root):
        kept = pa.schema([field for field in SCHEMA if field.name != name])
        rewrite(root, lambda rows: None, kept)

    return spoil


SPOILED = {
    "no description": (lambda root: (root / "prepared.json").unlink(), ["prepared.json", "hardneg-prepare"]),
    "no JSON": (lambda root: (root / "prepared.json").write_text("{"), ["prepared.json", "line 1"]),
    "a list": (lambda root: describe(root, []), ["version 1"]),
    "a later version": (lambda root: describe(root, {"version": 2}), ["version 1", "2"]),
    "no settings": (lambda root: describe(root, {"version": 1}), ["settings"]),
    "no table": (lambda root: (root / "studies.parquet").unlink(), ["studies.parquet"]),
    "a table cut off": (cut_table, ["studies.parquet"]),
    "a table that is text": (lambda root: (root / "studies.parquet").write_text("id,split"), ["studies.parquet"]),
    "no column": (without("offset"), ["a column offset of int64", "none"]),
    "a column of another type": (
        lambda root: rewrite(
            root, lambda rows: [row | {"shard": 0.5} for row in rows], SCHEMA.set(7, pa.field("shard", pa.float32()))
        ),
        ["a column shard of int32", "float"],
    ),
    "no report": (set_first(report=""), ["report"]),
    "a repeated id": (set_first(id="e"), ["expected each id once"]),
    "an empty split": (lambda root: rewrite(root, lambda rows: rows[:4]), ["test has none"]),
    "another split": (set_first(split="dev"), ["1 studies have another"]),
    "no such shard": (set_first(shard=7), ["Study 'a'", "00007.bin"]),
    "a shard before the first": (set_first(shard=-1), ["Study 'a'"]),
    "an offset before the file": (set_first(offset=-5), ["Study 'a'"]),
    "an offset after the file": (set_first(offset=2**50), ["Study 'a'", "00000.bin"]),
    "no view": (set_first(heights=[], widths=[]), ["Study 'a'"]),
    "a view of no height": (set_first(heights=[0, 24]), ["Study 'a'"]),
    "a huge view": (set_first(heights=[2**31 - 1, 24], widths=[2**31 - 1, 24]), ["Study 'a'", "00000.bin"]),
    "a view more": (set_first(heights=[24, 24, 24]), ["as many heights as widths"]),
    "a shard cut off": (
        lambda root: (root / "images" / "00000.bin").write_bytes((root / "images" / "00000.bin").read_bytes()[:-1]),
        ["Study 'b'", "00000.bin", "truncated"],
    ),
    "another's shard": (
        lambda root: shutil.copy(root / "images" / "00000.bin", root / "images" / "00001.bin"),
        ["Study 'd'", "00001.bin", "another table"],
    ),
    "no shard": (lambda root: (root / "images" / "00002.bin").unlink(), ["Study 'e'", "00002.bin"]),
    "no images": (lambda root: shutil.rmtree(root / "images"), ["images"]),
    "no folder": (lambda root: shutil.rmtree(root), ["prepared"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_folder_that_is_not_whole_is_one_line(root, case):
    spoil, words = SPOILED[case]
    spoil(root)
    message = error(root)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "value"), [("id", None), ("report", None), ("shard", None), ("heights", None), ("heights", [None, 24])]
)
def test_a_value_missing_where_there_must_be_one(root, name, value):
    rewrite(
        root,
        lambda rows: rows[0].update({name: value}),
        pa.schema([pa.field(field.name, field.type) for field in SCHEMA]),
    )
    assert f"a value in every row of {name}" in error(root)


def test_a_shard_lost_in_mid_training_names_the_study(root):
    train = read(root).split("train")
    shutil.rmtree(root / "images")
    with pytest.raises(UserError, match=r"Study 'c'.*00001\.bin"):
        train[2]
