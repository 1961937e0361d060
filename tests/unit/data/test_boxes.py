"""Boxes of one's own studies: what is read, what is refused, and that samples of either source carry them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.boxes import BoxTable
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError

LEFT, RIGHT = [0.1, 0.5, 0.9, 1.0], [0.1, 0.0, 0.9, 0.5]


def written(folder, *lines):
    file = folder / "boxes.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_boxes_are_those_of_the_file_and_others_have_none(tmp_path):
    file = written(
        tmp_path, {"id": "a", "boxes": [[LEFT, RIGHT]]}, "", {"id": 7, "boxes": [[LEFT, None], [None, RIGHT]]}
    )
    table = BoxTable(file)
    gone = [np.nan] * 4
    np.testing.assert_array_equal(table.of("a", 1), np.array([[LEFT, RIGHT]], np.float32))
    np.testing.assert_array_equal(table.of("7", 2), np.array([[LEFT, gone], [gone, RIGHT]], np.float32))
    np.testing.assert_array_equal(table.of("unknown", 3), np.full((3, 2, 4), np.nan, np.float32))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected a JSON object, but it cannot be read"),
        ([], r'line 2: expected {"id": a text, "boxes": a list per view}'),
        ({"id": "b"}, r'"boxes": a list per view'),
        ({"id": "b", "boxes": []}, r'"boxes": a list per view'),
        ({"id": "a", "boxes": [[LEFT, RIGHT]]}, "line 2: expected each study once, but got 'a' again"),
        ({"id": "b", "boxes": [[LEFT]]}, "line 2, study 'b': expected a list of 2 boxes for each view.*but got 1"),
        ({"id": "b", "boxes": [LEFT, RIGHT]}, "expected a list of 2 boxes for each view.*but got 4"),
        (
            {"id": "b", "boxes": [[LEFT, [0.5, 0, 0.4, 1]]]},
            r"shares of the image, in \[0, 1\], or null, but got \[0.5, 0,",
        ),
        ({"id": "b", "boxes": [[LEFT, [10, 20, 200, 300]]]}, r"but got \[10, 20, 200, 300\]"),
        ('{"id": "b", "boxes": [[null, [0, 0, NaN, 1]]]}', r"but got \[0, 0, nan, 1\]"),
        ({"id": "b", "boxes": [[LEFT, [True, 0, 1, 1]]]}, r"but got \[True, 0, 1, 1\]"),
    ],
    ids=str,
)
def test_a_line_of_another_form_is_refused_with_its_place(tmp_path, line, message):
    file = written(tmp_path, {"id": "a", "boxes": [[LEFT, RIGHT]]}, line)
    with pytest.raises(UserError, match=f"boxes.jsonl.*{message}"):
        BoxTable(file)


def test_no_file_an_empty_one_and_none_named_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Expected boxes in .*missing, but it cannot be read"):
        BoxTable(tmp_path / "missing")
    with pytest.raises(UserError, match=r"Expected a line per study in .*, but it is empty"):
        BoxTable(written(tmp_path))
    with pytest.raises(UserError, match=r"set data\.datamodule\.source\.boxes=boxes\.jsonl"):
        BoxTable(True)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((60, 48), np.uint8)
    pixels[6:54, 24:] = 200  # the box LEFT
    Image.fromarray(pixels).save(tmp_path / "images" / "chest.png")
    lists = {
        split: [
            {"id": f"{split} {i}", "report": "clear lungs", "image_path": ["chest.png"] * (1 + i)} for i in range(2)
        ]
        for split in ("train", "val", "test")
    }
    (tmp_path / "annotation.json").write_text(json.dumps(lists))
    written(
        tmp_path, {"id": "train 0", "boxes": [[LEFT, RIGHT]]}, {"id": "train 1", "boxes": [[LEFT, None], [LEFT, RIGHT]]}
    )
    return tmp_path


def test_samples_carry_boxes_that_move_with_the_crop(root):
    studies = AnnotatedStudies(root, resize=48, crop=40, boxes=root / "boxes.jsonl").split("train")
    torch.testing.assert_close(studies[1]["boxes"][1], torch.tensor([LEFT, RIGHT]))
    assert studies[1]["boxes"][0, 1].isnan().all()
    tops = set()
    for seed in range(8):
        sample = studies[0, seed]
        top, left, bottom, _ = (40 * sample["boxes"][0, 0]).round().int().tolist()
        bright = sample["images"][0, 0] > 100
        assert bright[max(0, top) : bottom, left:].all()
        assert not bright[:, :left].any()
        tops.add(top)
    assert len(tops) > 3
    batch = next(iter(data(root).train_dataloader()))
    assert batch["boxes"].shape == (2, 2, 2, 4)
    assert AnnotatedStudies(root, resize=48, crop=40).split("train")[0].keys() == studies[0].keys() - {"boxes"}


def data(root):
    source = AnnotatedStudies(root, resize=48, crop=40, boxes=root / "boxes.jsonl")
    return StudyDataModule(
        source, tokenizer=lambda reports: WordTokenizer(("<unk>", "clear")), batch_size=2, max_length=8
    )


def test_boxes_of_other_data_or_of_other_views_are_refused_before_anything_is_read(root):
    other = written(root, {"id": "s1", "boxes": [[LEFT]]})
    with pytest.raises(
        UserError, match=r"studies such as 'train 0' in .*boxes.jsonl, but got 's1' and 0 others, none of this data"
    ):
        AnnotatedStudies(root, boxes=other)
    short = written(root, {"id": "train 1", "boxes": [[LEFT]]})
    with pytest.raises(UserError, match="expected boxes for the 2 views of study 'train 1', but got 1"):
        AnnotatedStudies(root, boxes=short)
