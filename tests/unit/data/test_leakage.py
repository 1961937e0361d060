"""What is counted on both sides of a split, against sets compared by hand."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.downloads.annotated import AnnotatedOriginals
from hardneg_plugin.data.fingerprint import fingerprint
from hardneg_plugin.data.leakage import SharedStudies, leakage_of, leakage_warning
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.data.same_files import keys_of_files
from hardneg_plugin.data.study_table import SCHEMA

# By split, each study: id, report, patient, and the numbers of its images; the same number is the same image.
STUDIES = {
    "train": [
        ("a", "The heart is normal.", "p", [0, 1]),
        ("b", "No effusion.", "q", [2]),
        ("c", "Left effusion.", "r", [3]),
    ],
    "val": [("d", "the heart  is NORMAL.", "s", [4]), ("e", "A nodule.", "t", [5])],
    "test": [
        ("f", "A nodule.", "u", [6]),  # which is in val, not in train
        ("g", "Right effusion.", "p", [7]),
        ("h", "No  effusion.", "v", [8, 1]),
        ("i", "Scoliosis.", "r", [3]),
    ],
}
SHARED = {"val": SharedStudies(2, 1, 0, 0), "test": SharedStudies(4, 1, 2, 2)}


@pytest.fixture
def make(tmp_path):
    """Write the studies as files, and give their folder."""

    def written(name="data", patients=True):
        home = tmp_path / name
        (home / "images").mkdir(parents=True)
        lists = {}
        for split, studies in STUDIES.items():
            lists[split] = []
            for id_, report, patient, numbers in studies:
                files = []
                for place, number in enumerate(numbers):
                    pixels = np.random.default_rng(number).integers(0, 256, (30, 24), dtype=np.uint8)
                    Image.fromarray(pixels).save(home / "images" / f"{id_}_{place}.png")
                    files.append(f"{id_}_{place}.png")
                lists[split].append({"id": id_, "report": report, "image_path": files})
                if patients:
                    lists[split][-1]["patient"] = patient
        (home / "annotation.json").write_text(json.dumps(lists))
        return home

    return written


def prepared(home):
    folder = home.with_name(f"{home.name}_prepared")
    summary, _ = build(AnnotatedOriginals(home), folder, PrepareSettings(section="report", size=24), chunk=2)
    return folder, summary


def read(folder):
    return PreparedStudies(folder, resize=24, crop=20)


def test_of_files(make):
    assert leakage_of(AnnotatedStudies(make(), resize=24, crop=20)) == SHARED


def test_of_a_prepared_folder_and_in_its_description(make):
    folder, summary = prepared(make())
    assert leakage_of(read(folder)) == SHARED
    assert {name: SharedStudies(**counts) for name, counts in summary["shared_with_train"].items()} == SHARED


def test_the_same_pixels_in_another_file_are_the_same_image_once_prepared(make):
    home = make()
    image = Image.open(home / "images/f_0.png")
    image.save(home / "images/b_0.png", compress_level=0)  # of train: as f of test, but other bytes
    assert leakage_of(AnnotatedStudies(home, resize=24, crop=20))["test"].images == 2
    folder, _ = prepared(home)
    assert leakage_of(read(folder))["test"].images == 3


def test_in_a_folder_of_an_earlier_version_studies_are_compared_as_a_whole(make):
    folder, _ = prepared(make())
    before = fingerprint(read(folder))
    rows = pq.read_table(folder / "studies.parquet").to_pylist()
    schema = pa.schema([field for field in SCHEMA if field.name != "view_hashes"])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "studies.parquet")
    assert leakage_of(read(folder))["test"] == SharedStudies(4, 1, 1, 2)  # not the second view of h
    assert fingerprint(read(folder)) == before


def test_without_patients_none_are_compared(make):
    source = AnnotatedStudies(make(patients=False), resize=24, crop=20)
    assert leakage_of(source)["test"] == SharedStudies(4, 1, 2, None)


def test_only_files_whose_size_is_in_two_splits_are_read(tmp_path, monkeypatch):
    contents = {"train": [b"aaaa", b"bb"], "val": [b"c"], "test": [b"aaaa", b"bbbb", b""]}
    files = {}
    for split, each in contents.items():
        files[split] = [[tmp_path / f"{split}{i}"] for i in range(len(each))]
        for (path,), content in zip(files[split], each, strict=True):
            path.write_bytes(content)
    files["test"].append([tmp_path / "missing"])
    opened = []
    plain = type(tmp_path).open
    monkeypatch.setattr(type(tmp_path), "open", lambda path, *rest: (opened.append(path.name), plain(path, *rest))[1])
    keys = keys_of_files(files)
    assert sorted(opened) == ["test0", "test1", "train0"]
    assert keys["test"][0] == keys["train"][0]
    assert keys["test"][3] == frozenset()
    assert len({key for studies in keys.values() for of_study in studies for key in of_study}) == 5


def test_the_phantom_shares_no_patient_and_in_the_clinic_normal_reports():
    assert leakage_of(PhantomStudies(60, 20, 20, size=32))["test"].patients == 0
    source = PhantomStudies(300, 40, 40, size=32, regime="clinic")
    train = {report.lower() for report in source.split("train").reports}
    by_hand = {name: sum(text.lower() in train for text in source.split(name).reports) for name in ("val", "test")}
    assert by_hand["test"] > 0
    assert {name: shared.reports for name, shared in leakage_of(source).items()} == by_hand


def test_the_warning_is_one_line_and_says_what_was_found():
    assert leakage_warning({"val": SharedStudies(9, 0, 0, 0), "test": SharedStudies(9, 0, None, None)}) is None
    told = leakage_warning(SHARED)
    assert "\n" not in told
    assert "of 2 studies in val 1 the exact report of a training study" in told
    assert "of 4 studies in test 1 the exact report, 2 an image, 2 the patient of a training study" in told
    assert "split by patient" in told
    assert "split by patient" not in leakage_warning({"test": SharedStudies(9, 3, 0, 0)})


@pytest.mark.parametrize("change", ["report", "patient", "image", "order"])
def test_the_fingerprint_changes_with_the_studies_and_not_with_their_place(make, change):
    home = make()
    before = fingerprint(AnnotatedStudies(home, resize=24, crop=20))
    assert before["studies"] == {"train": 3, "val": 2, "test": 4}
    moved = home.with_name("elsewhere")
    shutil.copytree(home, moved)
    assert fingerprint(AnnotatedStudies(moved, resize=20, crop=16)) == before
    lists = json.loads((moved / "annotation.json").read_text())
    if change == "order":
        lists["test"].reverse()
    elif change == "image":
        (moved / "images/g_0.png").write_bytes((moved / "images/g_0.png").read_bytes() + b"\0")
    else:
        lists["test"][1][change] = "another"
    (moved / "annotation.json").write_text(json.dumps(lists))
    assert fingerprint(AnnotatedStudies(moved, resize=24, crop=20))["sha256"] != before["sha256"]
