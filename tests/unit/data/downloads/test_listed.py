import csv
import json
import logging
import os

import hydra
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.downloads.listed import ListedStudies
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.errors import UserError


@pytest.fixture
def home(tmp_path):
    for name in ("a.png", "b/c.png", "d.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def put(home, content, name="t.csv"):
    file = home / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(home, content, name="t.csv"):
    studies = ListedStudies(put(home, content, name))
    items = list(studies)
    assert list(studies) == items
    assert len(studies) == len({item.id for item in items})
    return items


def one(home, content, name="t.csv"):
    (study,) = read(home, content, name)
    assert isinstance(study, OriginalStudy)
    return study


ALL = [
    {
        "id": "s1",
        "images": ["a.png", "b/c.png"],
        "report": "Clear.",
        "patient": "7",
        "labels": ["b", "a"],
        "split": "val",
    },
    {"id": "s2", "images": ["d.jpg"], "report": 'A "large",\nheart.', "patient": "8", "labels": [], "split": "train"},
]


def cell(value):
    return ("|".join(value) or "normal") if isinstance(value, list) else value


def as_csv(rows, delimiter=","):
    lines = [[cell(value) for value in row.values()] for row in rows]
    text = []
    writer = csv.writer(type("", (), {"write": lambda _, line: text.append(line)})(), delimiter=delimiter)
    writer.writerows([rows[0].keys(), *lines])
    return "".join(text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", as_csv(ALL)),
        ("T.CSV", "\ufeff" + as_csv(ALL)),
        ("t.tsv", as_csv(ALL, "\t")),
        ("t.jsonl", "".join(json.dumps(row) + "\n\n" for row in ALL)),
        ("t.ndjson", "\r\n".join(json.dumps(row) for row in ALL)),
        ("t.json", json.dumps(ALL, indent=1)),
    ],
)
def test_every_format_gives_the_same(home, name, content):
    assert read(home, content, name) == [
        OriginalStudy(
            id="s1",
            images=(home / "a.png", home / "b" / "c.png"),
            report="Clear.",
            patient="7",
            labels="a|b",
            split="val",
        ),
        OriginalStudy(
            id="s2", images=(home / "d.jpg",), report='A "large",\nheart.', patient="8", labels="", split="train"
        ),
    ]


@pytest.mark.parametrize(
    "value", ["a.png|d.jpg", "a.png;d.jpg", ' ["a.png", "d.jpg"]', "a.png ; d.jpg;", "a.png|d.jpg|a.png"]
)
def test_several_images_in_a_cell(home, value):
    quoted = '"' + value.replace('"', '""') + '"'
    assert one(home, f"id,images,report\n1,{quoted},r\n").images == (home / "a.png", home / "d.jpg")


@pytest.mark.parametrize(
    "header",
    ["study_id,image_path,text,subject_id", "Study ID,Image,Report,Patient", "ID,IMAGE-PATH,text,patient_id"],
)
def test_common_names_of_columns(home, header):
    study = one(home, f"{header}\n1,a.png,r,9\n")
    assert (study.id, study.images, study.report, study.patient) == ("1", (home / "a.png",), "r", "9")


def test_the_first_of_several_names_is_taken_and_others_are_left_out(home, caplog):
    with caplog.at_level(logging.WARNING):
        study = one(home, "study_id,id,images,findings,impression,sex,\n1,2,a.png, f ,i,M,0\n")
    assert (study.id, study.findings, study.impression, study.report) == ("2", "f", "i", "")
    assert [record.getMessage() for record in caplog.records] == [
        f"{home / 't.csv'}, line 2: left out: ['sex', 'study_id']."
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_names_of_columns_that_the_user_gives(home, name):
    row = {"ID": "no", "Exam UID": "1", "Files": "a.png", "Caption": "r", "conclusion": "i", "fold": "dev"}
    columns = {"id": "exam_uid", "images": "files", "report": "Caption", "impression": "conclusion", "split": "FOLD"}
    content = as_csv([row]) if name == "t.csv" else json.dumps(row)
    (study,) = ListedStudies(put(home, content, name), columns=columns | {"labels": None})
    assert study == OriginalStudy(id="1", images=(home / "a.png",), report="r", impression="i", split="val")


def test_a_column_that_is_given_for_one_thing_is_not_read_for_another(home):
    (study,) = ListedStudies(put(home, "id,images,findings\n1,a.png,r\n"), columns={"report": "findings"})
    assert (study.report, study.findings) == ("r", "")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"imgs": "path"}, r"source\.columns: expected keys among id, images, .*split, but got \['imgs'\]"),
        ({"id": "uid"}, r"line 2: expected columns for id \(uid\), but got \['id', 'images', 'report'\]; pass .*\{id: NAME\}'"),
        ({"patient": "pid"}, r"columns\.patient: expected a column of .*csv, but got 'pid'; .*\['id', 'images', 'report'\]"),
    ],
)  # fmt: skip
def test_names_of_columns_that_are_not_there(home, columns, message):
    with pytest.raises(UserError, match=message):
        ListedStudies(put(home, "id,images,report\n1,a.png,r\n"), columns=columns)


@pytest.mark.parametrize(
    ("header", "missing", "names"),
    [
        ("id,report", "images (images, image, image_path, imageid)", "images: NAME"),
        ("id,images", "report (report, text)", "report: NAME"),
        ("id,images,reprot", "report (report, text)", "report: NAME"),
        (
            "id;images;report",
            "id (id, study_id, studyid) and images (images, image, image_path, imageid) and report (report, text)",
            "id: NAME, images: NAME, report: NAME",
        ),
    ],
)
def test_missing_columns_say_which_names_to_pass(home, header, missing, names):
    file = put(home, header + "\n" + ",".join("1" for _ in header.split(",")) + "\n")
    with pytest.raises(UserError) as caught:
        ListedStudies(file)
    assert str(caught.value) == (
        f"{file}, line 2: expected columns for {missing}, but got {sorted(header.split(','))}; "
        f"pass their names: 'source.columns={{{names}}}'."
    )


def test_an_object_may_lack_an_optional_column_that_is_given(home):
    rows = [{"id": 1, "images": "a.png", "report": "r"}, {"id": 2, "images": "a.png", "report": "r", "pid": 7}]
    first, second = ListedStudies(put(home, json.dumps(rows), "t.json"), columns={"patient": "pid"})
    assert (first.patient, second.patient) == (None, "7")


def test_rows_of_one_study_next_to_each_other_and_apart(home):
    rows = "1,a.png,r\n2,a.png,q\n1,b/c.png,\n2,d.jpg,q\n1,d.jpg,r\n3,d.jpg,p\n"
    assert [(study.id, [path.name for path in study.images], study.report) for study in read(home, f"id,image,report\n{rows}")] == [
        ("1", ["a.png", "c.png", "d.jpg"], "r"),
        ("2", ["a.png", "d.jpg"], "q"),
        ("3", ["d.jpg"], "p"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        ("b;a|b", "a|b"),
        ('"[""b"", ""a""]"', "a|b"),
        ("No Finding", ""),
        ("Normal;Edema", "Edema"),
        ("[]", ""),
        ("", None),
    ],
)
def test_labels(home, cells, labels):
    assert one(home, f"id,images,report,labels\n1,a.png,r,{cells}\n").labels == labels


@pytest.mark.parametrize(
    ("value", "split"),
    [("Train", "train"), ("training", "train"), ("valid", "val"), ("validate", "val"), ("validation", "val"), ("VAL", "val"),
     ("dev", "val"), ("test", "test"), ("testing", "test")],
)  # fmt: skip
def test_splits(home, value, split):
    assert one(home, f"id,images,report,split\n1,a.png,r,{value}\n").split == split


def test_what_is_dropped(home):
    rows = ["1,gone.png|a.png,r,test", "2,gone.png|b,r,test", "3,,r,test", "4,a.png,r,", "5,a.png,,val"]
    assert read(home, "id,images,report,split\n" + "\n".join(rows)) == [
        DroppedEntry("1", "image not found", "gone.png"),
        OriginalStudy(id="1", images=(home / "a.png",), report="r", split="test"),
        DroppedEntry("2", "image not found", "gone.png"),
        DroppedEntry("2", "image not found", "b"),
        DroppedEntry("2", "no image"),
        DroppedEntry("3", "no image"),
        DroppedEntry("4", "no split"),
        OriginalStudy(id="5", images=(home / "a.png",), split="val"),
    ]


def test_a_table_without_splits_drops_none(home):
    assert one(home, "id,images,report,split\n1,a.png,r,\n").split is None


def test_images_in_a_folder_of_their_own(home, tmp_path):
    file = put(home, "id,images,report\n1,c.png,r\n")
    (study,) = ListedStudies(file, home / "b")
    assert study.images == (home / "b" / "c.png",)
    with pytest.raises(UserError, match=r"folder of images at .*nowhere"):
        ListedStudies(file, home / "nowhere")


def test_json_numbers_and_nulls(home):
    row = {"ID": 12, "image": "a.png", "report": "r", "patient": 3, "labels": None, "split": None}
    study = one(home, json.dumps(row), "t.jsonl")
    assert (study.id, study.patient, study.labels, study.split) == ("12", "3", None, None)


HEAD = "id,images,report,split,patient\n"
ROW = {"id": "1", "images": "a.png", "report": "r"}
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "has none"),
        ("t.csv", HEAD, "there is none"),
        ("t.csv", "id,images,report\n1,a.png\n", "line 2 has 2"),
        ("t.csv", "id,images,report,ID\n1,a.png,r,2\n", "got \\['id'\\] twice"),
        ("t.csv", HEAD + ",a.png,r,,\n", "line 2: expected an id"),
        ("t.csv", HEAD + "1,a.png,r,tset,\n", "line 2: expected the split to be one of train.*'tset'"),
        ("t.csv", HEAD + '1,"[""a.png",r,,\n', 'line 2: expected "images" to be JSON'),
        ("t.csv", HEAD + "1,['a.png'; 'b.png'],r,,\n", 'line 2: expected "images" to be JSON.*write \\["a", "b"\\] or a|b'),
        ("t.csv", HEAD + '1,"[1]",r,,\n', 'line 2: expected "images" to be a text'),
        ("t.csv", HEAD + f"1,{DEEP},r,,\n", 'line 2: expected "images" to be JSON'),
        ("t.csv", HEAD + "1,a.png,r,,\n1,d.jpg,q,,\n", "study '1': line 2 and line 3 differ in 'report'"),
        ("t.csv", HEAD + "1,a.png,r,,7\n2,a.png,r,,\n1,d.jpg,r,,8\n", "line 2 and line 4 differ in 'patient'"),
        ("t.csv", HEAD + "1,a.png,r,val,\n1,d.jpg,r,test,\n", "differ in 'split'"),
        ("t.csv", HEAD + "1,../x.png,r,,\n", "study '1': Expected paths inside"),
        ("t.csv", HEAD + "1,/etc/passwd,r,,\n", "study '1': Expected paths inside"),
        ("t.csv", HEAD + "1,link.png,r,,\n", "study '1': .* outside"),
        ("t.csv", (HEAD + "1,a.png,caf\xe9,,\n").encode("latin-1"), "UTF-8, but line 2"),
        ("t.csv", HEAD.encode("utf-16"), "UTF-8, but line 1"),
        ("t.csv", HEAD + "1,a.png,\0,,\n", "line 2 has a NUL"),
        ("t.csv", HEAD + '1,a.png,"open\n2,a.png,r,,\n', "quote left open"),
        ("t.csv", HEAD + "1,a.png," + "x" * 200_000 + ",,\n", "larger than field limit"),
        ("t.jsonl", '{"id": 1\n', "line 1: expected the line to be JSON"),
        ("t.jsonl", json.dumps(ROW) + "\n[]\n", "line 2: expected an object .* got a list"),
        ("t.jsonl", json.dumps(ROW) + '\n{"id": 2, "images": "a.png"}\n', "line 2: .*report"),
        ("t.jsonl", '{"id": 1, "ID": 2, "images": "a.png", "report": "r"}', "each name once"),
        ("t.jsonl", json.dumps(ROW | {"id": True}), 'expected "id" to be a text or an integer, but got True'),
        ("t.jsonl", json.dumps(ROW | {"id": 1.5}), 'expected "id"'),
        ("t.jsonl", json.dumps(ROW | {"id": None}), "expected an id"),
        ("t.jsonl", json.dumps(ROW | {"report": ["r"]}), 'expected "report" to be a text, but got a list'),
        ("t.jsonl", json.dumps(ROW | {"report": "\ud800"}), "half of a surrogate pair"),
        ("t.jsonl", json.dumps(ROW | {"images": ["a\0.png"]}), "has a NUL"),
        ("t.jsonl", json.dumps(ROW | {"images": {"a": 1}}), 'expected "images"'),
        ("t.jsonl", json.dumps(ROW | {"images": ["a.png", None]}), 'expected "images"'),
        ("t.jsonl", '{"id": ' + "1" * 5000 + "}", "expected the line to be JSON"),
        ("t.jsonl", DEEP, "expected the line to be JSON"),
        ("t.json", DEEP, "expected the file to be JSON"),
        ("t.json", "{}", "Expected a list of objects"),
        ("t.json", "[]", "there is none"),
        ("t.json", "[1]", "entry 0: expected an object"),
        ("t.xlsx", "PK", "ends in .csv, .tsv"),
        ("t.pkl", b"\x80\x04.", "ends in .csv, .tsv"),
    ],
)  # fmt: skip
def test_bad_tables(home, name, content, message):
    (home / "link.png").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=message) as caught:
        list(ListedStudies(put(home, content, name)))
    assert "\n" not in str(caught.value)
    assert str(home / name) in str(caught.value)


def test_no_table(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        ListedStudies(tmp_path / "gone.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="no such file"):
        ListedStudies(tmp_path / "pipe.csv")


TABLES = {
    "t.csv": as_csv(ALL).encode(),
    "t.jsonl": "\n".join(map(json.dumps, ALL)).encode(),
    "t.json": json.dumps(ALL).encode(),
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a.png", "../a.png", "val"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["id", "images", "report", "labels", "split", "patient", "uid"]), ANY_JSON),
    max_size=4,
)


def read_or_explained(folder, name, content):
    file = put(folder, content, name)
    items, explained = [], ""
    try:
        items = list(ListedStudies(file))
    except UserError as caught:
        explained = str(caught)
    assert items or str(file) in explained
    assert "\n" not in explained
    assert all(item.id for item in items)
    assert all(isinstance(item, DroppedEntry) or item.images == (folder / "a.png",) for item in items)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_tables_are_read_or_explained(tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(TABLES)))
    content = bytearray(TABLES[name])
    pieces = [b"", b"\xff", b"\0", b'"', b",", b"\n", b"\r", b"[", b"{", b"\\ud800", b"../", b"|", b"\xc3\xa9"]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from(pieces))
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.png").touch()
    read_or_explained(folder, name, bytes(content))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_any_json_is_read_or_explained(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.png").touch()
    read_or_explained(folder, "t.json", json.dumps(rows))


def test_its_config_takes_names_of_columns(home):
    file = put(home, "uid,path,caption\n1,a.png,r\n")
    given = ["source=listed", f"source.table={file}", "source.columns={id: uid, images: path, report: caption}"]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        (study,) = instantiate(hydra.compose("prepare", given).source)
    assert study == OriginalStudy(id="1", images=(home / "a.png",), report="r")


def test_its_config(home):
    file = put(home, as_csv(ALL))
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("prepare", ["source=listed", f"source.table={file}"])
    assert config.section == "report"
    assert set(config.source.columns.values()) == {None}
    assert list(instantiate(config.source)) == list(ListedStudies(file))


NAN = [
    {"id": "s1", "images": ["a.png"], "findings": float("nan"), "impression": "Normal.", "labels": float("nan")},
    {"id": "s2", "images": ["a.png"], "findings": "None.", "impression": float("nan"), "patient": float("nan")},
]


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_nan_of_json_is_blank(home, name):
    content = json.dumps(NAN) if name == "t.json" else "".join(json.dumps(row) + "\n" for row in NAN)
    assert "NaN" in content
    first, second = read(home, content, name)
    assert (first.findings, first.impression, first.labels) == ("", "Normal.", None)
    assert (second.findings, second.impression, second.patient) == ("None.", "", None)


@pytest.mark.parametrize("cell", ["nan", "NaN", " nan ", "<NA>", "null", "None", "#N/A"])
def test_cells_that_programs_write_for_a_missing_value_are_blank(home, cell):
    (study,) = read(
        home, f"id,images,findings,impression,patient,labels,split\n1,a.png,{cell},Ok.,{cell},{cell},train\n"
    )
    assert (study.findings, study.impression, study.patient, study.labels) == ("", "Ok.", None, None)
    with pytest.raises(UserError, match="expected an id"):
        ListedStudies(put(home, f"id,images,report\n{cell},a.png,r\n"))


PADCHEST = """\
ImageID,StudyID,PatientID,Report,Labels
a.png,20200,0,torax sin hallazgos .,"['cardiomegaly', 'pleural effusion']"
b/c.png,20201,1,torax sin hallazgos .,"['pleural effusion', 'cardiomegaly', '', nan]"
d.jpg,20202,2,torax sin hallazgos .,"['cardiomegaly' ""pleural effusion""]"
a.png,20203,3,torax sin hallazgos .,['normal']
b/c.png,20204,4,torax sin hallazgos .,"[""Chilaiditi's sign"", 'a\\'b']"
d.jpg,20205,5,torax sin hallazgos .,nan
"""


def test_padchest_is_read_as_it_is_distributed(home):
    studies = read(home, PADCHEST)
    both = "cardiomegaly|pleural effusion"
    assert [study.labels for study in studies] == [both, both, both, "", "Chilaiditi's sign|a'b", None]
    assert [study.id for study in studies] == [str(number) for number in range(20200, 20206)]
    assert [study.patient for study in studies] == list("012345")
    assert studies[1].images == (home / "b/c.png",)
