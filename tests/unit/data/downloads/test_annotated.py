"""The R2Gen layout as a source to prepare from."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.downloads.annotated import AnnotatedOriginals
from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.errors import UserError

LISTS: dict[str, Any] = {
    "train": [
        {"id": 1, "report": "One.\n", "image_path": ["1/0.png", "1/1.png"], "patient": "p", "labels": ["b", "a"]},
        {"id": "s2", "report": "Two.", "image_path": ["2.png"]},
    ],
    "val": [{"id": "s3", "report": "Three.", "image_path": ["3.png"], "labels": []}],
    "test": [{"id": "s4", "report": "Four.", "image_path": ["4.png"]}],
}


@pytest.fixture
def root(tmp_path):
    for names in (entry["image_path"] for entries in LISTS.values() for entry in entries):
        for name in names:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((30, 40), dtype=np.uint8)).save(path)
    (tmp_path / "annotation.json").write_text(json.dumps(LISTS))
    return tmp_path


def test_studies_are_those_that_training_reads(root):
    images = root / "images"
    expected = [
        OriginalStudy(
            "1", (images / "1/0.png", images / "1/1.png"), report="One.", patient="p", labels="a|b", split="train"
        ),
        OriginalStudy("s2", (images / "2.png",), report="Two.", split="train"),
        OriginalStudy("s3", (images / "3.png",), report="Three.", labels="", split="val"),
        OriginalStudy("s4", (images / "4.png",), report="Four.", split="test"),
    ]
    source = AnnotatedOriginals(root)
    assert list(source) == expected == list(source)
    assert len(source) == 4
    read = AnnotatedStudies(root)
    assert [id_ for split in ("train", "val", "test") for id_ in read.split(split).ids] == [s.id for s in expected]


def test_a_flaw_is_that_of_the_annotation(root):
    (root / "images/2.png").unlink()
    with pytest.raises(UserError, match=r"train\[1\] \(id 's2'\): image .*2\.png cannot be found"):
        AnnotatedOriginals(root)
