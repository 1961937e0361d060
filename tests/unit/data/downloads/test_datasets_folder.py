"""Prepared studies to a folder of `datasets` and back."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hardneg_plugin.data.downloads.datasets_folder import DatasetsFolder, write_datasets_folder
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.errors import UserError

library = pytest.importorskip("datasets", reason="needs hardneg-plugin[datasets]")
SPLITS = ("train", "val", "test")


@pytest.fixture
def prepared(tmp_path):
    random = np.random.default_rng(0)
    studies = []
    for number in range(9):
        views = tuple(tmp_path / f"{number}_{view}.png" for view in range(1 + number % 2))
        for path in views:
            Image.fromarray(random.integers(0, 256, (20 + number, 24), dtype=np.uint8)).save(path)
        labels = (None, "", "effusion|nodule")[number % 3]
        patient = None if number == 4 else f"p{number // 2}"
        studies.append(
            OriginalStudy(
                f"s{number}",
                views,
                report=f"Réport {number}.",
                patient=patient,
                labels=labels,
                split=SPLITS[number % 3],
            )
        )
    build(studies, tmp_path / "prepared", PrepareSettings(section="report", size=16))
    return tmp_path / "prepared"


def content(folder):
    """By split the rows of a prepared folder, with the pixels of their views."""
    source = PreparedStudies(folder, resize=16, crop=16, findings=None)
    return {
        name: [
            (*row, [view.tolist() for view in source.split(name).read_views(index, 1)])
            for index, row in enumerate(
                zip(
                    *(getattr(source.split(name), column) for column in ("ids", "reports", "patients", "labels")),
                    strict=True,
                )
            )
        ]
        for name in SPLITS
    }


def test_a_prepared_folder_goes_out_and_comes_back_as_it_was(prepared, tmp_path):
    write_datasets_folder(prepared, tmp_path / "out")
    found = library.load_from_disk(str(tmp_path / "out"))
    assert list(found) == ["train", "validation", "test"]
    wanted = content(prepared)
    for public, name in zip(found, SPLITS, strict=True):
        assert set(found[public].column_names) == {"id", "images", "report", "patient", "labels"}
        for row, (study, report, patient, labels, views) in zip(found[public], wanted[name], strict=True):
            assert (row["id"], row["report"], row["patient"], row["labels"]) == (study, report, patient, labels)
            assert [torch.from_numpy(np.array(image))[None].tolist() for image in row["images"]] == views
    source = DatasetsFolder(tmp_path / "out")
    assert len(source) == 9
    build(source, tmp_path / "back", PrepareSettings(section="report", size=16))
    assert content(tmp_path / "back") == wanted
    assert not list((tmp_path / "out").rglob("cache*"))  # another's folder is not written into
    assert not list(tmp_path.glob(".*"))  # nothing unfinished, and no cache
    with pytest.raises(UserError, match=r"out exists already and is left as it is"):
        write_datasets_folder(prepared, tmp_path / "out")


def image(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20), dtype=np.uint8))


@pytest.mark.parametrize("column", ["image", "images"])
def test_a_single_data_set_with_names_of_others(column, tmp_path):
    rows = {"study_id": [7, 8], column: [image(1), image(2)], "findings": ["A.", None], "labels": [["b", "a"], []]}
    library.Dataset.from_dict(rows).cast_column(column, library.Image()).save_to_disk(str(tmp_path / "x"))
    source = DatasetsFolder(tmp_path / "x")
    first, second = source
    assert (first.id, first.findings, first.labels, first.split, first.patient) == ("7", "A.", "a|b", None, None)
    assert (second.findings, second.labels) == ("", "")
    assert np.array_equal(np.array(Image.open(first.images[0])), np.array(image(1)))


def test_no_image_outside_the_folder_is_read(tmp_path):
    features = library.Features(
        {"id": library.Value("string"), "report": library.Value("string"), "images": [library.Image()]}
    )
    secret = tmp_path / "secret.png"
    image().save(secret)
    row = {"id": ["a"], "report": ["A."], "images": [[{"bytes": None, "path": str(secret)}]]}
    made = library.Dataset.from_dict(row, features=features)
    # save_to_disk would embed it: a stranger's table need not have been written by it
    plain = [{"bytes": library.Value("binary"), "path": library.Value("string")}]
    made = made.cast_column("images", [library.Image(decode=False)])
    made.cast(library.Features({**features, "images": plain})).save_to_disk(str(tmp_path / "x"))
    (entry,) = DatasetsFolder(tmp_path / "x")
    assert isinstance(entry, DroppedEntry)
    assert entry.reason == "image not found"


def test_what_is_no_such_folder_is_told_in_one_line(prepared, tmp_path, monkeypatch):
    def refused(root, expected):
        with pytest.raises(UserError, match=expected) as error:
            DatasetsFolder(root)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "nowhere cannot be read")
    refused(prepared, "Expected a folder that datasets wrote")
    library.Dataset.from_dict({"id": ["a"], "text": ["x"]}).save_to_disk(str(tmp_path / "x"))
    refused(tmp_path / "x", "expected columns images and report, findings or impression, but got id, text")
    library.Dataset.from_dict({"id": ["a"], "report": ["x"], "images": ["x"]}).save_to_disk(str(tmp_path / "y"))
    refused(tmp_path / "y", "expected images in the column images")
    one = library.Dataset.from_dict({"id": ["a"], "report": ["x"]})
    library.DatasetDict({"train": one, "extra": one}).save_to_disk(str(tmp_path / "z"))
    refused(tmp_path / "z", "expected splits among train, .*, but got extra")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(tmp_path / "x", r"pip install 'hardneg-plugin\[datasets\]'")
    with pytest.raises(UserError, match="needs the package datasets"):
        write_datasets_folder(prepared, tmp_path / "w")
