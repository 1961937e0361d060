import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours.table import read_metadata, read_neighbours, write_neighbours


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_reads_the_neighbours_in_their_order(tmp_path):
    table = {"b": ["a", "c"], "a": [], "7": [12, "é"]}
    file = write(tmp_path / "neighbours.json", table)
    assert read_neighbours(file) == read_neighbours(str(file)) == {"b": ["a", "c"], "a": [], "7": ["12", "é"]}
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(table).encode())  # as some editors begin a file
    assert read_neighbours(file)["b"] == ["a", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"Expected JSON in .*neighbours\.json, but line 1, column 2"),
        ("[]", r"\{study id: \[ids, nearest first\]\} in .*neighbours\.json, but got a list"),
        ("{}", r"at least one study in .*neighbours\.json, but it is empty"),
        ({"a": "b"}, r"neighbours\.json, study 'a': expected a list of study ids.*but got a text"),
        ({"a": {"b": 0.5}}, r"study 'a': .*but got an object"),
        ({"a": ["b"], "c": ["a", None]}, r"study 'c', \[1\]: expected a study id, but got null"),
        ({"a": [1.5]}, r"study 'a', \[0\]: expected a study id, but got a number"),
        ({"a": [True]}, r"study 'a', \[0\]: expected a study id, but got True"),
        ({"a": ["b", "a"]}, r"study 'a': expected other studies, but \[1\] is the study itself"),
        ({"7": [7]}, r"study '7': expected other studies, but \[0\] is the study itself"),
        ({"a": ["b", "c", "c"]}, r"study 'a': expected each neighbour once, but got 'c' twice"),
    ],
)
def test_a_faulty_table_is_refused_with_file_and_study(tmp_path, content, message):
    file = write(tmp_path / "neighbours.json", content)
    with pytest.raises(UserError, match=message):
        read_neighbours(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the neighbour table file .*none\.json, but .*No such file"):
        read_neighbours(tmp_path / "none.json")
    with pytest.raises(UserError, match="Is a directory"):
        read_neighbours(tmp_path)
    file = tmp_path / "neighbours.json"
    file.write_bytes(b'{"a": ["\xe9"]}')
    with pytest.raises(UserError, match=r"neighbours\.json in UTF-8, but byte 8 is 0xe9"):
        read_neighbours(file)


def test_parquet_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "neighbours.parquet"
    metadata = {"settings": {"k": 2, "é": None}, "seconds": 0.5}
    write_neighbours(file, ["b", "a", "é"], [["a", "é"], [], ["b"]], [[0.75, 0.5], [], [0.25]], metadata)
    assert read_neighbours(file) == read_neighbours(str(file)) == {"b": ["a", "é"], "a": [], "é": ["b"]}
    assert list(read_neighbours(file)) == ["b", "a", "é"]
    assert read_metadata(file) == metadata
    schema = pq.read_schema(file)
    assert [(field.name, str(field.type).replace("item", "element")) for field in schema] == [
        ("study", "string"),
        ("neighbours", "list<element: string>"),
        ("scores", "list<element: float>"),
    ]
    assert pq.read_table(file)["scores"].to_pylist() == [[0.75, 0.5], [], [0.25]]
    assert [path.name for path in tmp_path.iterdir()] == ["neighbours.parquet"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"study": ["a"], "near": [["b"]]},
            r"columns study, neighbours in .*, but it has no neighbours, only study, near",
        ),
        ({"study": ["a", "a"], "neighbours": [["b"], ["c"]]}, "each study once, but got 'a' twice"),
        ({"study": ["a"], "neighbours": [["a"]]}, r"study 'a': expected other studies"),
        ({"study": ["a"], "neighbours": [["b", None]]}, r"study 'a', \[1\]: expected a study id, but got null"),
        ({"study": ["a"], "neighbours": ["b"]}, r"study 'a': expected a list of study ids.*got a text"),
        ({"study": ["a", None], "neighbours": [["b"], ["a"]]}, r"row 1: expected a study id, but got null"),
        ({"study": pa.array([], pa.string()), "neighbours": pa.array([], pa.list_(pa.string()))}, "it is empty"),
    ],
)
def test_faulty_parquet_is_refused(tmp_path, columns, message):
    file = tmp_path / "neighbours.parquet"
    pq.write_table(pa.table(columns), file)
    with pytest.raises(UserError, match=message):
        read_neighbours(file)


def test_broken_parquet_is_refused(tmp_path):
    file = tmp_path / "neighbours.parquet"
    with pytest.raises(UserError, match=r"none\.parquet, but it cannot be read \(No such file"):
        read_neighbours(tmp_path / "none.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        read_neighbours(tmp_path / "folder.parquet")
    write_neighbours(file, [f"s{i}" for i in range(50)], [["x"]] * 50, [[0.5]] * 50, {})
    whole = file.read_bytes()
    assert len(read_neighbours(file)) == 50
    for content in (b"", b"PAR1", b"no table", whole[:-1], whole[: len(whole) // 2], whole[len(whole) // 2 :]):
        file.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_neighbours(file)


def annotation(**negatives):
    """Studies a-f, of which c and d share a report; what each has as a negative."""
    reports = {"a": "One.", "b": "Two.", "c": "Three.", "d": "Three.", "e": "Five.", "f": "Six."}
    entries = [
        {"id": name, "report": report, "image_path": [f"{name}/0.png", f"{name}/1.png"]} | negatives.get(name, {})
        for name, report in reports.items()
    ]
    return {"train": entries, "val": entries[:1], "test": entries[:1]}


def test_the_released_annotation_is_read(tmp_path, caplog):
    content = annotation(
        a={"neg_report": "Three.", "neg_image_path": ["c/0.png", "c/1.png"]},  # the images tell c from d
        b={"neg_report": "One."},
        c={"neg_image_path": "e/0.png"},
        d={"neg_report": " Two. ", "neg_image_path": ["elsewhere/0.png"]},  # written otherwise: by its report
        e={"neg_report": "Six.", "neg_image_path": ["f/0.png"]},
        f={"neg_report": "Five.", "neg_image_path": ["e/1.png"]},
    )
    table = {"a": ["c"], "b": ["a"], "c": ["e"], "d": ["b"], "e": ["f"], "f": ["e"]}
    assert read_neighbours(write(tmp_path / "annotation.json", content)) == table
    assert not caplog.records


REPORTS = [
    "1. No acute disease. 2. Heart-size is NORMAL. 3. Nodule of 1.5 cm.",
    "Effusion and/or pleural thickening; unchanged since T11.  Volume 75%.",
    'Heart  size:\nnormal... Degenerative changes at L4/L5, (see above) "mild".',
    "6. Six. 12. Twelve. Size 5",
]


@pytest.mark.parametrize("cleaning", ["iu_xray", "mimic_cxr"])
def test_a_cleaned_report_is_that_of_its_study(tmp_path, caplog, cleaning):
    clean = CLEANINGS[cleaning]
    entries = [
        {"id": str(i), "report": report, "neg_report": clean(REPORTS[i - 1])} for i, report in enumerate(REPORTS)
    ]
    entries.append({"id": "same", "report": clean(REPORTS[0]), "neg_report": REPORTS[1]})
    table = read_neighbours(write(tmp_path / "annotation.json", {"train": entries}))
    assert table == {"0": ["3"], "1": ["same"], "2": ["1"], "3": ["2"], "same": ["1"]}
    assert not caplog.records


def test_the_first_of_several_negatives_counts(tmp_path, caplog):
    content = annotation(
        a={"neg_report": ["Two.", "Five."]},
        b={"neg_report": ["Three.", "One."], "neg_image_path": [["c/0.png", "c/1.png"], ["a/0.png"]]},
        c={"neg_image_path": [["e/0.png"], ["a/0.png"]]},
        d={"neg_report": ["Three.", "One."], "neg_image_path": ["c/0.png", "a/0.png"]},  # an image of each
        e={"neg_report": [], "neg_image_path": []},
        f={"neg_report": ["Five."], "neg_image_path": []},
    )
    table = {"a": ["b"], "b": ["c"], "c": ["e"], "d": ["c"], "e": [], "f": ["e"]}
    assert read_neighbours(write(tmp_path / "annotation.json", content)) == table
    assert "1 without a negative" in caplog.text


def test_unknown_and_ambiguous_negatives_are_counted_and_left_out(tmp_path, caplog):
    content = annotation(
        a={"neg_report": "Three."},  # c or d
        b={"neg_report": "Never written.", "neg_image_path": ["x/0.png"]},
        c={"neg_report": "Three.", "neg_image_path": ["c/0.png"]},
        d={"neg_report": "Two.", "neg_image_path": ["a/0.png", "b/0.png"]},  # of two studies: by its report
        e={"neg_image_path": ["f/0.png"]},
    )
    assert read_neighbours(write(tmp_path / "annotation.json", content)) == {
        "a": [], "b": [], "c": [], "d": ["b"], "e": ["f"], "f": []
    }  # fmt: skip
    (record,) = caplog.records
    assert "4 of 6 studies" in record.getMessage()
    for words in ("1 unknown", "1 ambiguous", "1 the study itself", "1 without a negative"):
        assert words in record.getMessage()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotation(), "Expected neg_report and neg_image_path in the entries of"),
        (annotation(a={"neg_report": "?"}, b={"neg_image_path": []}), r"\(1 unknown, 5 without a negative\)"),
        ({"train": [{"id": "a", "neg_report": "x"}] * 2}, "1 ids of train are repeated"),
        (
            {"train": [{"report": "x", "neg_report": "x"}]},
            r"train\[0\]: expected an object with an id, but got the id None",
        ),
        ({"train": [{"id": 1}, 5]}, r"train\[1\]: expected an object with an id, but got a number"),
    ],
)
def test_a_faulty_annotation_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_neighbours(write(tmp_path / "annotation.json", content))


def test_a_study_may_be_called_train(tmp_path):
    assert read_neighbours(write(tmp_path / "table.json", {"train": ["a"], "a": ["train"]}))["train"] == ["a"]
