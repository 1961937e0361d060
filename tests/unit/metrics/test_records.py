"""Predictions files: what is written comes back, and what is no such file is told by its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardneg_plugin.data.phantom.reading import read_findings
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import write_jsonl
from hardneg_plugin.metrics.records import findings_from_json, findings_to_json, make_record, read_predictions

TEXT = "there is a small left pleural effusion . a calcified 6 mm nodule projects over the right upper lung zone ."


def test_records_come_back_from_a_file(tmp_path):
    records = [
        make_record("a", TEXT, "the heart is normal .", patient="p", labels="x", read_findings=read_findings),
        make_record("b", "line\u2028break \u00e9", "", labels=""),
    ]
    records[0]["measured"] = {"loss": 0.1 + 0.2, "tokens": 7}
    write_jsonl(tmp_path / "test.jsonl", records)
    again = read_predictions(tmp_path / "test.jsonl")
    assert [record["id"] for record in again] == ["a", "b"]
    assert again[1] == records[1]
    assert again[0]["measured"]["loss"] == 0.1 + 0.2
    assert findings_from_json(again[0]["findings"]["reference"]) == read_findings(TEXT) != frozenset()


values = st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3).map(tuple))


@given(st.frozensets(st.tuples(st.text(), values), max_size=4))
def test_findings_of_any_kind_survive_json(findings):
    assert findings_from_json(json.loads(json.dumps(findings_to_json(findings)))) == findings


GOOD = {"id": "a", "reference": "r", "generated": "g"}


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a JSON object, but got list"),
        ({**GOOD, "id": 3}, 'under "id", but got 3'),
        ({"id": "b", "reference": "r"}, 'under "generated", but got None'),
        ({**GOOD, "id": "b", "labels": 1}, 'under "labels", but got 1'),
        ({**GOOD, "id": "b", "scores": {"BLEU-4": "x"}}, 'under "scores"'),
        ('{"id": "b", "reference": "r", "generated": "g", "measured": {"loss": NaN}}', 'under "measured"'),
        ({**GOOD, "id": "b", "findings": {"reference": []}}, 'under "findings"'),
        ({**GOOD, "id": "b", "findings": {"reference": ["x"], "generated": []}}, 'under "findings"'),
        (GOOD, "study 'a' is repeated"),
    ],
    ids=range(10),
)
def test_a_line_that_is_no_record_is_told(tmp_path, second, told):
    line = second if isinstance(second, str) else json.dumps(second)
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(UserError) as error:
        read_predictions(tmp_path / "x.jsonl")
    assert f"{tmp_path / 'x.jsonl'}, line 3: " in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"], ids=["no file", "empty", "blank", "no text"])
def test_a_file_without_studies_is_told(tmp_path, content):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.jsonl"):
        read_predictions(path)
