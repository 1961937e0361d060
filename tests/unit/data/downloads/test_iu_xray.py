import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.downloads.archives import Member, read_members
from hardneg_plugin.data.downloads.iu_xray import IUXRay, image_key, mesh_labels, read_report
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.errors import UserError


def xml(uid, *images, findings="Clear.", impression="Normal.", major=("normal",), head=""):
    images = "".join(f'<parentImage id="{image}"/>' for image in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{head}<eCitation><uId id="{uid}"/><Abstract>'
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}'
        f"</AbstractText></Abstract><MeSH>{''.join(f'<major>{term}</major>' for term in major)}"
        f"<automatic>lung</automatic></MeSH>{images}</eCitation>"
    )


REPORTS = {
    "1": xml("CXR1", "CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"),
    "2": xml("CXR2", "CXR2_IM-0652-0001-0001", "CXR2_IM-0652-0001-0002", "CXR2_IM-0652-2001", findings=" ",
             major=("Opacity/lung", "Aorta, Thoracic/tortuous ", "Opacity/lung")),
    "3": xml("CXR3", findings="<b>Large</b> heart &amp; é.\n", impression="", major=("No Indexing",)),
    "4": xml("CXR4", "CXR4_IM-0001-1001", "CXR4_IM-0013-1001", major=()),
}  # fmt: skip


@pytest.fixture
def home(tmp_path):
    (tmp_path / "reports" / "ecgen").mkdir(parents=True)
    for name, text in REPORTS.items():
        (tmp_path / "reports" / "ecgen" / f"{name}.xml").write_text(text, encoding="utf-8")
    return tmp_path


def put(home, *names):
    for name in names:
        path = home / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(home, annotation=None):
    studies = IUXRay(home / "reports", home / "images", annotation)
    items = list(studies)
    assert len(studies) == len({item.id for item in items})
    assert list(studies) == items
    return items


def annotate(home, **lists):
    file = home / "annotation.json"
    file.write_text(
        json.dumps({name.strip("_") or "    ": [{"id": id_} for id_ in ids] for name, ids in lists.items()})
    )
    return file


def test_studies_of_images_by_their_names_flat_nested_and_as_dicom(home):
    put(home, "CXR1_1_IM-0001-4001.png", "1_IM-0001-3001.dcm", "sub/CXR2_IM-0652-0001-0002.PNG", "notes.txt",
        "2_IM-0652-0001-0001.dcm.png", "._CXR4_IM-0001-1001.png", "CXR4_IM-0013-1001.jpeg", "CXR5_IM-0001-1001.png")  # fmt: skip
    images = home / "images"
    assert read(home) == [
        OriginalStudy(
            id="CXR1_1_IM-0001",
            images=(images / "1_IM-0001-3001.dcm", images / "CXR1_1_IM-0001-4001.png"),
            findings="Clear.",
            impression="Normal.",
            patient="1",
            labels="",
        ),
        DroppedEntry("CXR2_IM-0652-0001", "image not found", "CXR2_IM-0652-2001"),
        OriginalStudy(
            id="CXR2_IM-0652-0001",
            images=(images / "2_IM-0652-0001-0001.dcm.png", images / "sub" / "CXR2_IM-0652-0001-0002.PNG"),
            findings="",
            impression="Normal.",
            patient="2",
            labels="Aorta, Thoracic/tortuous|Opacity/lung",
        ),
        DroppedEntry("CXR3", "no image"),
        DroppedEntry("CXR4_IM-0001", "image not found", "CXR4_IM-0001-1001"),
        OriginalStudy(
            id="CXR4_IM-0001",
            images=(images / "CXR4_IM-0013-1001.jpeg",),
            findings="Clear.",
            impression="Normal.",
            patient="4",
            labels=None,
        ),
    ]


def test_images_in_the_layout_of_r2gen_are_in_the_order_of_their_numbers(home):
    put(home, "CXR1_1_IM-0001/10.png", "CXR1_1_IM-0001/2.png", "more/CXR4_IM-0001/0.png", "other/0.png")
    kept = [item for item in read(home) if isinstance(item, OriginalStudy)]
    assert [[path.parent.name + "/" + path.name for path in study.images] for study in kept] == [
        ["CXR1_1_IM-0001/2.png", "CXR1_1_IM-0001/10.png"],
        ["CXR4_IM-0001/0.png"],
    ]


def test_the_split_and_the_choice_of_an_annotation(home, caplog):
    put(home, *(f"{name}/0.png" for name in ("CXR1_1_IM-0001", "CXR2_IM-0652-0001", "CXR4_IM-0001")))
    lists = {"train": ["CXR4_IM-0001"], "val": ["CXR3", "CXR9_IM-1"], "none": ["CXR2_IM-0652-0001"]}
    file = annotate(home, **lists, ____=["CXR1_1_IM-0001"])
    with caplog.at_level(logging.WARNING):
        items = read(home, file)
    assert [(item.id, getattr(item, "reason", None) or item.split) for item in items] == [
        ("CXR1_1_IM-0001", "test"),
        ("CXR2_IM-0652-0001", "not in the annotation"),
        ("CXR3", "no image"),
        ("CXR4_IM-0001", "train"),
        ("CXR9_IM-1", "no report"),
    ]
    assert "'    ' is read in its place" in caplog.text
    assert "left out: ['none']" in caplog.text


def error(home, annotation=None, images="images"):
    with pytest.raises(UserError) as caught:
        IUXRay(home / "reports", home / images, annotation)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml("CXR7", head=BOMB, findings="&b;"), "has one. Do not use it"),
        (xml("CXR7", head=FILE, findings="&f;"), "has one. Do not use it"),
        (xml("CXR7", head='<!DOCTYPE x SYSTEM "http://example.org/x.dtd">'), "has one. Do not use it"),
        (xml("CXR7", findings="&undefined;"), "undefined entity"),
        (xml("CXR7")[:200], "is not XML ("),
        ("", "no element found"),
        ("no xml", "is not XML (syntax error"),
        ("<project/>", '<uId id="CXR1">'),
        (xml("MIM7"), '<uId id="CXR1">'),
        (xml("CXR7").replace("utf-8", "no-such"), "is not XML ("),
        (xml("CXR7").replace("utf-8", "shift_jis"), "is not XML ("),
        (xml("CXR7").encode("utf-16"), "is not XML ("),
        (xml("CXR7", findings="caf\xe9").encode("latin-1"), "not well-formed"),
        (xml("CXR7", findings="\0"), "not well-formed"),
        ("<a>" * 100_000, "is not XML ("),
        ("<a>" * 400_000, "'z.xml' is larger"),
    ],
)
def test_a_report_that_is_none_is_named(home, content, message):
    put(home, "CXR1_1_IM-0001-3001.png")
    (home / "reports" / "z.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    got = error(home)
    assert message in got
    assert "'z.xml'" in got
    assert str(home / "reports") in got


def test_a_report_in_another_encoding_that_it_declares(home):
    content = xml("CXR7", findings="café").replace("utf-8", "iso-8859-1").encode("latin-1")
    assert read_report(Member("7.xml", content), home)[0].findings == "café"


def test_folders_that_are_not_the_collection(home):
    assert "No such file" in error(home, images="gone")
    put(home, "IM-0001.png", "scans/1.png")
    assert "but there is none" in error(home)
    put(home, "CXR1_1_IM-0001-3001.png", "dicom/1_IM-0001-3001.dcm")
    assert "are the same" in error(home)
    shutil.rmtree(home / "reports")
    assert "archive or a folder" in error(home)
    (home / "reports").mkdir()
    assert "there is none" in error(home)


def test_images_that_link_out_are_refused(home):
    put(home, "CXR1_1_IM-0001-3001.png")
    (home / "images" / "CXR4_IM-0001-1001.png").symlink_to("/etc/passwd")
    assert "outside" in error(home)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["CXR1_1"], "val": ["CXR2"]}, '"test"'),
        ({"train": ["CXR1_1"], "val": ["CXR2"], "test": []}, "an empty one"),
        ({"train": ["CXR1_1"], "val": ["CXR1_1"], "test": ["CXR2"]}, "val[0] repeats 'CXR1_1'"),
        ({"train": ["50414267"], "val": ["CXR1"], "test": ["CXR2"]}, "train[0]"),
        ({"train": [None], "val": ["CXR1"], "test": ["CXR2"]}, "train[0]"),
    ],
)
def test_annotations_of_something_else(home, lists, message):
    put(home, "CXR1_1_IM-0001-3001.png")
    assert message in error(home, annotate(home, **lists))


def test_image_names():
    names = ("CXR1_1_IM-0001-3001", "CXR1_IM-0001-3001.png", "1_IM-0001-3001.dcm", "1_IM-0001-3001.dcm.png")
    assert {image_key(name) for name in names} == {"1_IM-0001-3001"}
    assert {image_key(name) for name in ("0.png", "IM-0001.png", "CXR1.png", "1_IM-0001-3001.txt", "")} == {None}


@pytest.mark.parametrize(
    ("terms", "labels"),
    [
        (["normal"], ""),
        (["No Indexing"], None),
        ([], None),
        ([" "], None),
        (["No Indexing", "normal"], ""),
        (["b/c", "a ", "normal", "b/c"], "a|b/c"),
    ],
)
def test_labels(terms, labels):
    assert mesh_labels(terms) == labels


TEXT = xml("CXR7", "CXR7_IM-0001-1001").encode()


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(TEXT)), st.sampled_from([b"", b"\xff", b"\0", b"<!", b"&a;", b"]]>", b"<x>", b'"'])
        ),
        min_size=1,
        max_size=4,
    ),
    noise=st.binary(max_size=20),
)
def test_damaged_reports_are_read_or_explained(edits, noise):
    for content in (b"".join(_edited(edits)), noise):
        report, explained = None, ""
        try:
            report, _ = read_report(Member("7.xml", content), Path("reports"))
        except UserError as caught:
            explained = str(caught)
        assert "'7.xml' of reports" in explained if report is None else report.id and report.labels != "normal"


def _edited(edits):
    at = 0
    for place, insertion in sorted(edits):
        yield TEXT[at:place] + insertion
        at = place + 1
    yield TEXT[at:]


@pytest.mark.slow
def test_the_reports_are_exactly_those_of_the_annotation(real_data, tmp_path):
    folder = real_data("iu_xray_reports")
    content = json.loads((folder / "annotation.json").read_text())
    for entry in (entry for entries in content.values() for entry in entries):
        put(tmp_path, *entry["image_path"])  # no images are beside the reports: here only their names count
    source = IUXRay(folder / "NLMCXR_reports.tgz", tmp_path / "images", folder / "annotation.json")
    items = list(source)
    assert len(source) == len(items) == 3955
    studies = [item for item in items if isinstance(item, OriginalStudy)]
    for split, entries in content.items():
        assert {entry["id"]: (entry["report"], entry["image_path"]) for entry in entries} == {
            study.id: (study.findings, [f"{path.parent.name}/{path.name}" for path in study.images])
            for study in studies
            if study.split == split
        }
    assert len(studies) == len({study.patient for study in studies}) == 2955
    assert Counter(getattr(item, "reason", "kept") for item in items) == {"kept": 2955, "not in the annotation": 1000}


def test_the_real_images_are_found_and_can_be_read(real_data, tmp_path):
    images = real_data("iu_xray_tiny") / "images"
    content = json.loads((images.parent / "annotation.json").read_text())
    findings = {entry["id"]: entry["report"] for entries in content.values() for entry in entries}
    files = {f"{id_.split('_')[0].removeprefix('CXR')}.xml" for id_ in findings}
    for name, text in read_members(real_data("iu_xray_reports") / "NLMCXR_reports.tgz", suffix=".xml"):
        if name.rpartition("/")[2] in files:
            (tmp_path / name.rpartition("/")[2]).write_bytes(text)
    studies = list(IUXRay(tmp_path, images))
    assert {study.id: study.findings for study in studies} == findings
    assert (len(studies), sum(len(study.images) for study in studies)) == (7, 9)
    for study in studies:
        assert all(read_grayscale(path).float().std() > 10 for path in study.images)
    splits = [getattr(item, "split", item) for item in IUXRay(tmp_path, images, images.parent / "annotation.json")]
    assert Counter(splits) == {
        "train": 3,
        "val": 1,
        "test": 2,
        DroppedEntry("CXR303_IM-1404", "not in the annotation"): 1,
    }


def test_images_are_read_where_they_are_found(home):
    put(home, "CXR1_1_IM-0001-3001.png")
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(home / "images" / "CXR1_1_IM-0001-3001.png")
    (study,) = (item for item in read(home) if isinstance(item, OriginalStudy))
    assert read_grayscale(study.images[0]).shape == (1, 8, 9)


def test_its_config(home):
    put(home, "CXR1_1_IM-0001-3001.png")
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(
            "prepare", ["source=iu_xray", f"source.reports={home}/reports", f"source.images={home}/images"]
        )
    assert config.section == "findings"
    assert list(instantiate(config.source)) == list(IUXRay(home / "reports", home / "images"))
