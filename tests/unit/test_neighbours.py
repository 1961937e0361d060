import json

import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours import read_neighbours


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
