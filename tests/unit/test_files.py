"""Files are whole or not there."""

import json

import pytest

from hardneg_plugin.files import whole_text_file, write_json, write_jsonl


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    write_json(path, {"a": 1})

    def records():
        yield {"id": "1"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, records())
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_not_a_number_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_as_it_is(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [{"id": "ä"}, {"id": "b"}])
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == '{"id": "ä"}\n{"id": "b"}\n'
    with whole_text_file(tmp_path / "y") as file:
        file.write("y")
    assert (tmp_path / "y").read_text() == "y"
