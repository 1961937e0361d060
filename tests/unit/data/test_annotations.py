import copy
import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.data.transforms import random_crop, resize_to_square
from hardneg_plugin.errors import UserError

ENTRIES = {
    "train": [
        {"id": "s1", "report": "Clear lungs.", "image_path": ["s1/0.png", "s1/1.jpg"], "labels": ["b", "a", "b"]},
        {"id": 2, "report": "Large\nheart.", "image_path": ["s2/0.png"], "subject_id": 77, "labels": []},
    ],
    "val": [{"id": "s3", "report": "Effusion.", "image_path": ["s3.png"], "patient": "p", "labels": "given"}],
    "test": [{"id": "s4", "report": "Normal.", "image_path": ["s4.png"], "patient_id": "q", "split": "test"}],
}


def write_image(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    home = tmp_path / "data set"
    for seed, name in enumerate(["s1/0.png", "s1/1.jpg", "s2/0.png", "s3.png", "s4.png"]):
        write_image(home / "images" / name, seed)
    write(home, ENTRIES)
    return home


def write(root, content):
    (root / "annotation.json").write_text(json.dumps(content), encoding="utf-8")


def read(root, **options):
    return AnnotatedStudies(root, **{"resize": 24, "crop": 20} | options)


def error(root, **options):
    with pytest.raises(UserError) as caught:
        read(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_splits_and_samples(root):
    source = read(root)
    train = source.split("train")
    assert source.split("train") is train
    assert source.read_findings("Large heart, left effusion.") == {("pleural effusion", (("side", "left"),))}
    assert read(root, findings=None).read_findings is None
    assert "findings: expected one of english or null, but got 'deutsch'." in error(root, findings="deutsch")
    assert (len(train), list(train.ids), list(train.reports)) == (2, ["s1", "2"], ["Clear lungs.", "Large\nheart."])
    assert [len(source.split(name)) for name in ("val", "test")] == [1, 1]
    first, second = train[0], train[1]
    assert (first["id"], first["report"], first["patient"], first["labels"]) == ("s1", "Clear lungs.", None, "a|b")
    assert (second["patient"], second["labels"]) == ("77", "")
    assert (source.split("val")[0]["patient"], source.split("val")[0]["labels"]) == ("p", "given")
    assert (source.split("test")[0]["patient"], source.split("test")[0]["labels"]) == ("q", None)
    assert (first["images"].shape, first["images"].dtype) == ((2, 1, 20, 20), torch.uint8)
    with pytest.raises(ValueError, match="'valid'"):
        source.split("valid")
    with pytest.raises(IndexError):
        train[2]


def test_plain_keys_show_the_whole_image_and_seeds_draw_a_crop_per_view(root):
    train = read(root).split("train")
    views = [read_grayscale(root / "images" / name) for name in ENTRIES["train"][0]["image_path"]]
    assert torch.equal(train[0]["images"], torch.stack([resize_to_square(view, crop=20)[0] for view in views]))
    draw = torch.Generator().manual_seed(9)
    expected = torch.stack([random_crop(view, resize=24, crop=20, generator=draw)[0] for view in views])
    before = torch.random.get_rng_state()
    assert torch.equal(train[0, 9]["images"], expected)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert any(not torch.equal(train[0, seed]["images"], expected) for seed in range(3))


def test_a_large_jpeg_is_not_decoded_smaller_than_its_transform_needs(root):
    path = root / "images" / "s1" / "1.jpg"
    write_image(path, 1, size=(90, 80))  # 1/4 is enough for the crop of 20 but not for the shorter side of 24
    train = read(root).split("train")
    half, quarter = read_grayscale(path, shorter_side=24), read_grayscale(path, shorter_side=20)
    assert (half.shape, quarter.shape) == ((1, 45, 40), (1, 23, 20))
    assert torch.equal(train[0]["images"][1], resize_to_square(quarter, crop=20)[0])
    windows = {
        random_crop(half, resize=24, crop=20, generator=torch.Generator().manual_seed(seed))[0].numpy().tobytes()
        for seed in range(300)
    }
    assert train[0, 4]["images"][1].numpy().tobytes() in windows


def test_other_lists_are_left_out_with_one_note(root, caplog):
    write(root, ENTRIES | {"none": [{"broken": 1}], "version": 2})
    with caplog.at_level(logging.INFO):
        read(root)
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "only train, val and test are used; left out: ['none', 'version']."
    ]


def test_a_blank_name_stands_for_a_missing_test_list(root, caplog):
    lists = {name.replace("test", "    "): entries for name, entries in ENTRIES.items()}
    write(root, lists | {"none": []})
    with caplog.at_level(logging.INFO):
        source = read(root)
    assert list(source.split("test").ids) == ["s4"]
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "there is no list \"test\"; the one under the blank name '    ' is read in its place.",
        "only train, val and test are used; left out: ['none'].",
    ]
    write(root, ENTRIES | {"    ": [1]})
    assert list(read(root).split("test").ids) == ["s4"]  # left out where there is a list "test"


def test_utf8_with_a_byte_order_mark_is_read(root):
    text = json.dumps(ENTRIES | {"val": [ENTRIES["val"][0] | {"report": "Épanchement."}]}, ensure_ascii=False)
    (root / "annotation.json").write_text(text, encoding="utf-8-sig")
    assert list(read(root).split("val").reports) == ["Épanchement."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"train": [}', r"line 1, column 12"),
        (b'{"train":\n "\xff"}', r"UTF-8, but byte 12 is 0xff"),
        (b"[]", "got a list"),
        (b'{"train": [1], "val": [1], "": [1], " ": [1]}', r"\"test\".*only \['', ' ', 'train', 'val'\]"),
        (b'{"train": [1], "test": [1], "    ": [1]}', r"\"val\".*only \['    ', 'test', 'train'\]"),
        (b'{"train": [1], "val": [1], "    ": []}', r"\"test\".*but got an empty one"),
        (b'{"train": [], "val": [1], "test": [1]}', r"\"train\".*but got an empty one"),
        (b'{"train": {"a": 1}, "val": [1], "test": [1]}', r"\"train\".*got an object"),
        (b"", "line 1, column 1"),
    ],
)
def test_a_file_that_is_no_annotation(root, content, message):
    (root / "annotation.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(root)
    assert "annotation.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(root):
    assert "cannot be read (No such file" in error(root, annotation="other.json")
    assert error(root, annotation="other.json").endswith("source=listed makes a folder for data=prepared.")
    (root / "prepared.json").write_text("{}")
    assert error(root, annotation="other.json").endswith("read it with data=prepared.")
    assert str(root / "pictures") in error(root, images="pictures")
    assert "nowhere" in error(root / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, 'expected "id"'),
        ({"id": ""}, 'expected "id"'),
        ({"id": True}, 'expected "id"'),
        ({"id": "\ud800"}, 'expected "id"'),
        ({"report": " \n"}, 'expected "report" to be a text that is not empty'),
        ({"report": 3}, 'expected "report"'),
        ({"report": ...}, '"report" to be a text that is not empty, but got no such key'),
        ({"image_path": []}, 'expected "image_path"'),
        ({"image_path": "s3.png"}, 'expected "image_path" to be a list'),
        ({"image_path": ["s3.png", 4]}, 'expected "image_path"'),
        ({"image_path": ...}, "no such key"),
        ({"patient": ["p"]}, 'expected "patient"'),
        ({"labels": {"a": 1}}, 'expected "labels"'),
        ({"labels": ["a", 1]}, 'expected "labels"'),
        ({"id": "s1"}, "also that of train[0]"),
        ({"id": "2"}, "also that of train[1]"),
        ({"image_path": ["../annotation.json"]}, "inside"),
        ({"image_path": ["/etc/hostname"]}, "inside"),
        ({"image_path": ["a\0.png"]}, "inside"),
        ({"image_path": ["s1"]}, "no file"),
        ({"image_path": ["empty.png"]}, "empty.png is empty"),
        ({"image_path": ["s3.png", "gone.png"]}, "gone.png cannot be found (No such file"),
        ({"image_path": ["x" * 300]}, "cannot be found"),
    ],
)
def test_an_entry_that_is_wrong_is_named_with_its_place(root, change, message):
    (root / "images" / "empty.png").touch()
    content = copy.deepcopy(ENTRIES)
    content["val"][0].update(change)
    content["val"][0] = {key: value for key, value in content["val"][0].items() if value is not ...}
    write(root, content)
    for check in ("stat", "decode"):
        got = error(root, check=check)
        assert message in got
        assert f"{root / 'annotation.json'}, val[0] (id {content['val'][0]['id']!r})" in got
        assert "more" not in got


def test_an_entry_that_is_no_object(root):
    write(root, ENTRIES | {"test": ["s4"]})
    assert "test[0]: expected an object" in error(root)


def test_flaws_of_one_kind_are_counted_and_the_first_is_reported(root):
    content = copy.deepcopy(ENTRIES)
    content["train"][1]["report"] = ""
    content["val"][0]["image_path"] = ["gone.png"]
    content["test"][0]["report"] = " "
    write(root, content)
    message = error(root)
    assert "train[1] (id 2)" in message
    assert '"report"' in message
    assert "(1 more like it.)" in message


def test_links_stay_within_the_data_set(root, tmp_path):
    write_image(tmp_path / "elsewhere" / "s.png", 7)
    link = root / "images" / "s3.png"
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere" / "s.png")
    message = error(root)
    assert "outside" in message
    assert "val[0] (id 's3')" in message
    assert str(tmp_path / "elsewhere" / "s.png") in message
    link.unlink()
    write_image(root / "store" / "s.png", 7)
    link.symlink_to("../store/s.png")  # as data managers do
    assert len(read(root).split("val")) == 1


def test_the_folder_of_images_may_itself_be_a_link(root, tmp_path):
    (root / "images").rename(tmp_path / "disk")
    (root / "images").symlink_to(tmp_path / "disk")
    assert read(root).split("train")[0]["images"].shape == (2, 1, 20, 20)


def test_a_truncated_image_is_found_at_the_start_or_when_met(root):
    path = root / "images" / "s1" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    message = error(root)
    assert "Study 's1'" in message
    assert str(path) in message
    (root / "images" / "s4.png").write_bytes(b"no image")
    assert "(1 more like it.)" in error(root)
    train = read(root, check="stat").split("train")
    assert train[1]["id"] == "2"
    with pytest.raises(UserError, match=r"Study 's1': .*1\.jpg"):
        train[0]


@pytest.mark.parametrize("options", [{"crop": 30}, {"crop": 0}, {"check": "all"}])
def test_options_out_of_range(root, options):
    assert str(next(iter(options))) in error(root, **options)


@pytest.mark.parametrize(("name", "sizes"), [("covid_cxr_notes", (166, 23, 47)), ("iu_xray_tiny", (3, 1, 2))])
def test_real_data_sets(real_data, name, sizes):
    source = AnnotatedStudies(real_data(name))
    assert tuple(len(source.split(split)) for split in ("train", "val", "test")) == sizes
    for key in (0, (len(source.split("train")) - 1, 11)):
        images = source.split("train")[key]["images"]
        assert images.shape[1:] == (1, 224, 224)
        assert images.float().std() > 10


def test_reports_without_images_fail_in_one_line(root):
    shutil.rmtree(root / "images")
    assert re.search(r"Expected a folder of images at .*data set.images", error(root))
