import gzip
import os
import zipfile

import pytest
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.downloads.mimic_cxr import MimicCXR
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.errors import UserError

IMAGES = """\
dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows
a1-b2,10000032,50000009,"CHEST (PA, LAT)",PA,3056
a3-b4,10000032,50000009,"CHEST (PA, LAT)",LATERAL,3056
c1,10000032,50000002,CHEST,AP,2544
d1,11000011,50000005,CHEST,,2544
d2,11000011,50000005,CHEST,AP LLD,2544
e1,11000011,50000007,CHEST,LL,2544
"""
SPLITS = """\
dicom_id,study_id,subject_id,split
a1-b2,50000009,10000032,train
a3-b4,50000009,10000032,train
c1,50000002,10000032,train
d1,50000005,11000011,validate
d2,50000005,11000011,validate
e1,50000007,11000011,test
"""
LABELS = """\
subject_id,study_id,Atelectasis,Edema,No Finding,Support Devices
10000032,50000009,0.0,-1.0,,1.0
10000032,50000002,,,1.0,
11000011,50000005,,,,
"""
STUDIES = {50000009: 10000032, 50000002: 10000032, 50000005: 11000011, 50000007: 11000011}


def report_of(study):
    return f"FINAL REPORT\n FINDINGS: Lungs of ___\n {study}.\r\n\n IMPRESSION:  Normal {study}.\n"


def put(path, content=b"\xff\xd8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def report_path(study):
    subject = str(STUDIES[study])
    return f"files/p{subject[:2]}/p{subject}/s{study}.txt"


@pytest.fixture
def root(tmp_path):
    home = tmp_path / "mimic-cxr"
    put(home / "mimic-cxr-2.0.0-metadata.csv", IMAGES)
    put(home / "mimic-cxr-2.0.0-split.csv", SPLITS)
    put(home / "mimic-cxr-2.0.0-chexpert.csv", LABELS)
    for row in IMAGES.splitlines()[1:]:
        dicom, subject, study, *_ = row.split(",")
        put(home / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg")
    for study in STUDIES:
        put(home / report_path(study), report_of(study))
    return home


def read(root, **options):
    source = MimicCXR(root, **options)
    items = list(source)
    kept = [item for item in items if isinstance(item, OriginalStudy)]
    assert len(source) == len(STUDIES)
    assert len(items) >= len(source)
    return {item.id: item for item in kept}, [item for item in items if isinstance(item, DroppedEntry)]


def error(root, **options):
    with pytest.raises(UserError) as caught:
        list(MimicCXR(root, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(study):
    return [image.name for image in study.images]


def test_studies_as_the_tables_have_them(root):
    studies, dropped = read(root, labels="mimic-cxr-2.0.0-chexpert.csv")
    assert dropped == []
    assert list(studies) == ["50000002", "50000005", "50000007", "50000009"]
    last = studies["50000009"]
    assert last == OriginalStudy(
        id="50000009",
        images=tuple(root / f"files/p10/p10000032/s50000009/{name}.jpg" for name in ("a1-b2", "a3-b4")),
        findings="Lungs of ___ 50000009.",
        impression="Normal 50000009.",
        report="FINAL REPORT FINDINGS: Lungs of ___ 50000009. IMPRESSION: Normal 50000009.",
        patient="10000032",
        labels="Edema?|Support Devices",
        split="train",
    )
    assert [study.labels for study in studies.values()] == ["", None, None, "Edema?|Support Devices"]
    assert [study.split for study in studies.values()] == ["train", "val", "test", "train"]
    assert [study.patient for study in studies.values()] == ["10000032", "11000011", "11000011", "10000032"]


def test_frontal_views_only(root):
    studies, dropped = read(root, views="frontal")
    assert {id_: names(study) for id_, study in studies.items()} == {
        "50000002": ["c1.jpg"],
        "50000005": ["d2.jpg"],
        "50000009": ["a1-b2.jpg"],
    }
    assert dropped == [
        DroppedEntry("50000005", "unknown view position", "d1"),
        DroppedEntry("50000007", "no frontal image"),
    ]


def test_without_split_and_labels(root):
    (root / "mimic-cxr-2.0.0-split.csv").unlink()
    studies, _ = read(root, split=None)
    assert {(study.split, study.labels) for study in studies.values()} == {(None, None)}


def zipped(root, members, name="mimic-cxr-reports.zip"):
    with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


SECTIONS = "study,findings,impression,last_paragraph,comparison\n" + "\n".join(
    f's{study},"Lungs of ___\n{study}.",Normal {study}.,,' for study in STUDIES
)


@pytest.mark.parametrize("kind", ["zip", "zip without files/", "folder", "table", "compressed table"])
def test_reports_may_come_in_other_ways(root, kind):
    expected = {id_: (study.findings, study.impression) for id_, study in read(root)[0].items()}
    members = {report_path(study): report_of(study) for study in STUDIES}
    for member in members:
        (root / member).unlink()
    options = {}
    if kind == "folder":
        for member, content in members.items():
            put(root / "mimic-cxr-reports" / member, content)
    elif kind == "table":
        put(root / "sections.csv", SECTIONS)
        options = {"reports": "sections.csv"}
    elif kind == "compressed table":
        put(root / "sections.csv.gz", gzip.compress(SECTIONS.encode()))
        options = {"reports": str(root / "sections.csv.gz")}
    else:
        zipped(root, {(m if kind == "zip" else m.removeprefix("files/")): c for m, c in members.items()})
    studies, dropped = read(root, **options)
    assert {id_: (study.findings, study.impression) for id_, study in studies.items()} == expected
    assert dropped == []


def test_the_last_paragraph_of_a_table_stands_in_for_findings_where_there_is_neither(root):
    put(
        root / "sections.csv",
        "study,last_paragraph,findings,impression\ns50000002,Last.,,\n50000005,Last.,,Normal.\n50000007,Last.,Clear.,\n",
    )
    studies, dropped = read(root, reports="sections.csv")
    assert {id_: (study.findings, study.impression) for id_, study in studies.items()} == {
        "50000002": ("Last.", ""),
        "50000005": ("", "Normal."),
        "50000007": ("Clear.", ""),
    }
    assert dropped == [DroppedEntry("50000009", "report not found")]


@pytest.mark.parametrize("name", ["mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"])
@pytest.mark.parametrize("kind", [".gz", ".gz unpacked by the browser", "compressed in spite of its name", "BOM, CRLF"])
def test_tables_may_be_compressed(root, name, kind):
    file, expected = root / name, read(root)
    content = file.read_bytes()
    if kind == "BOM, CRLF":
        file.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    elif kind == "compressed in spite of its name":
        file.write_bytes(gzip.compress(content))
    else:
        file.unlink()
        put(root / f"{name}.gz", gzip.compress(content) if kind == ".gz" else content)
    assert read(root) == expected


@pytest.mark.parametrize("ending", [".dcm", ".png"])
def test_images_of_other_kinds(root, ending):
    image = root / "files/p10/p10000032/s50000002/c1.jpg"
    image.rename(image.with_suffix(ending))
    assert names(read(root)[0]["50000002"]) == [f"c1{ending}"]


def test_what_is_missing_is_dropped_with_its_reason(root):
    (root / "files/p10/p10000032/s50000009/a1-b2.jpg").unlink()
    (root / "files/p10/p10000032/s50000002/c1.jpg").unlink()
    (root / report_path(50000005)).unlink()
    put(root / "mimic-cxr-2.0.0-split.csv", SPLITS.replace("e1,50000007,11000011,test\n", ""))
    studies, dropped = read(root)
    assert {id_: names(study) for id_, study in studies.items()} == {"50000009": ["a3-b4.jpg"]}
    assert [(item.id, item.reason) for item in dropped] == [
        ("50000002", "image not found"),
        ("50000002", "no image"),
        ("50000005", "report not found"),
        ("50000007", "in no split"),
        ("50000009", "image not found"),
    ]
    assert dropped[0].detail == "p10/p10000032/s50000002/c1"


def test_a_partial_download_is_told_from_missing_files(root):
    for study in (50000005, 50000007):
        put(root / "mimic-cxr-reports" / report_path(study), report_of(study))
    assert {item.reason for item in read(root)[1]} == {"reports of p10 not downloaded"}
    os.rename(root / "files/p11", root / "elsewhere")
    assert [item.reason for item in read(root, reports="files")[1]] == ["images of p11 not downloaded"] * 2


BROKEN_REPORTS = {
    "not UTF-8": ("FINDINGS: caf\xe9.".encode("latin-1"), "report not in UTF-8"),
    "too large": (b"FINDINGS: " + b"long " * 300_000, "report too large"),
}


@pytest.mark.parametrize("case", BROKEN_REPORTS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_broken_report_is_dropped_alone(root, case, kind):
    content, reason = BROKEN_REPORTS[case]
    put(root / report_path(50000005), content)
    if kind == "zip":
        zipped(root, {report_path(study): (root / report_path(study)).read_bytes() for study in STUDIES})
    studies, (dropped,) = read(root)
    assert (len(studies), dropped.id, dropped.reason) == (3, "50000005", reason)


def test_a_corrupt_member_of_the_archive_is_dropped_alone(root):
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        for study in STUDIES:
            archive.writestr(report_path(study), report_of(study))
    file = root / "mimic-cxr-reports.zip"
    file.write_bytes(file.read_bytes().replace(b"Normal 50000005", b"Normal 5000000!", 1))
    studies, (dropped,) = read(root)
    assert (len(studies), dropped.id, dropped.reason) == (3, "50000005", "report unreadable")


METADATA, SPLIT, CHEXPERT = (f"mimic-cxr-2.0.0-{name}.csv" for name in ("metadata", "split", "chexpert"))
BAD_TABLES = {
    "no metadata": (METADATA, None, "neither. Download it"),
    "no split": (SPLIT, None, "set `split`"),
    "no labels": (CHEXPERT, None, "set `labels`"),
    "empty": (METADATA, "", "cannot be read .*Empty CSV"),
    "header only": (METADATA, "dicom_id,subject_id,study_id,ViewPosition\n", "no row"),
    "another table": (METADATA, SPLITS.replace("subject_id", "subject"), "subject_id is not among"),
    "split lacks its column": (SPLIT, IMAGES, "split is not among"),
    "ragged": (METADATA, IMAGES + "f1,10000032\n", "Expected 6 columns, got 2"),
    "half a compressed file": (METADATA, gzip.compress(IMAGES.encode())[:-20], "cannot be read"),
    "garbage in a compressed file": (METADATA, b"\x1f\x8b" + bytes(range(60)), "cannot be read"),
    "UTF-16": (METADATA, IMAGES.encode("utf-16"), "cannot be read|not among"),
    "Latin-1": (METADATA, IMAGES.replace("c1", "caf\xe9").encode("latin-1"), "cannot be read .*UTF8"),
    "a web page": (METADATA, "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "is not among"),
    "study id blank": (METADATA, IMAGES.replace("50000007", ""), "number as study_id .* got None"),
    "study id a fraction": (METADATA, IMAGES.replace("50000007", "5.1"), "'5.1'"),
    "subject id a word": (METADATA, IMAGES.replace("11000011", "eleven"), "'eleven'"),
    "dicom id a path": (METADATA, IMAGES.replace("c1", "../../c1"), "without a folder .* '../../c1'"),
    "dicom id absolute": (METADATA, IMAGES.replace("c1", "/etc/passwd"), "'/etc/passwd'"),
    "dicom id blank": (METADATA, IMAGES.replace("c1", ""), "got None"),
    "unknown split": (SPLIT, SPLITS.replace("validate", "dev"), "but got 'dev'"),
    "blank split": (SPLIT, SPLITS.replace("validate", ""), "a blank"),
    "two splits of one study": (SPLIT, SPLITS.replace("train", "test", 1), "study 50000009 has two"),
    "unknown label value": (CHEXPERT, LABELS.replace("-1.0", "2.0"), "'Edema' .* got 2"),
    "label a word": (CHEXPERT, LABELS.replace("-1.0", "maybe"), "maybe"),
    "labels twice": (CHEXPERT, LABELS + "11000011,50000005,,,,\n", "50000005 is repeated"),
    "no label": (CHEXPERT, "subject_id,study_id\n11000011,50000005\n", "a column per label"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_end_in_one_line(root, case):
    name, content, message = BAD_TABLES[case]
    if content is None:
        (root / name).unlink()
    else:
        put(root / name, content)
    found = error(root, labels=CHEXPERT)
    assert name.removesuffix(".csv") in found
    with pytest.raises(UserError, match=message):
        list(MimicCXR(root, labels=CHEXPERT))


def test_bad_folders_archives_and_settings_end_in_one_line(root):
    assert "'lateral'" in error(root, views="lateral")
    assert "p10 to p19 of images" in error(root, images="nowhere")
    assert "reports.txt, but there is no such file or folder" in error(root, reports="reports.txt")
    assert "p10 to p19 of reports" in error(root, reports=".." if not list(root.parent.glob("p??")) else ".")
    put(root / "mimic-cxr-reports.zip", b"PK\x03\x04 cut")
    assert "mimic-cxr-reports.zip, but it cannot be read" in error(root)
    zipped(root, {"files/readme.txt": "no report"})
    assert "has none" in error(root)
    for outside in (
        "../../p10/p10000032/s50000002.txt",
        "/p10/p10000032/s50000002.txt",
        "C:/x.txt",
        "a\\..\\..\\x.txt",
    ):
        zipped(root, {outside: "out", report_path(50000002): report_of(50000002)})
        assert "paths inside the archive" in error(root)
    put(root / "sections.csv", SECTIONS + "\n" + SECTIONS.split("\n", 1)[1])
    assert "50000002 is repeated" in error(root, reports="sections.csv")
    put(root / "sections.csv", SECTIONS.replace("findings", "text"))
    assert "findings is not among" in error(root, reports="sections.csv")


@pytest.mark.parametrize("kind", ["image", "report"])
def test_links_out_are_refused(root, kind):
    secret = root.parent / "secret.txt"
    secret.write_text("FINDINGS: Secret.")
    path = root / (report_path(50000002) if kind == "report" else "files/p10/p10000032/s50000002/c1.jpg")
    path.unlink()
    path.symlink_to(secret)
    assert "outside" in error(root)


def test_the_config_names_the_reader_and_its_defaults(root):
    config = OmegaConf.load(conf_dir() / "source" / "mimic_cxr.yaml")
    config.root = str(root)
    assert list(instantiate(config)) == list(MimicCXR(root))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([METADATA, SPLIT, CHEXPERT]), st.integers(0, 400), st.binary(max_size=12), st.integers(0, 12))
def test_broken_tables_raise_nothing_but_user_errors(root, name, place, inserted, removed):
    content = {METADATA: IMAGES, SPLIT: SPLITS, CHEXPERT: LABELS}[name].encode()
    put(root / name, content[:place] + inserted + content[place + removed :])
    try:
        items = list(MimicCXR(root, labels=CHEXPERT, views="frontal"))
    except UserError as caught:
        items = [DroppedEntry("", str(caught))]
    assert all(isinstance(item, OriginalStudy | DroppedEntry) for item in items)
    assert not any("\n" in item.reason for item in items if isinstance(item, DroppedEntry))
    put(root / name, content)
