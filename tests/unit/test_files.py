"""Files are whole or not there."""

import json
import os
import re
import secrets
import stat
from pathlib import Path

import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import open_no_link, whole_file, whole_folder, whole_text_file, write_json, write_jsonl

SOURCE = Path(__file__).parents[2] / "src" / "hardneg_plugin"


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


def test_a_folder_takes_its_place_only_when_it_is_whole(tmp_path, monkeypatch):
    place = tmp_path / "deep" / "model"
    with whole_folder(place) as unfinished:
        (unfinished / "a").write_text("1")
        assert not place.exists()
    assert (place / "a").read_text() == "1"

    def fill(content, **options):
        with whole_folder(place, **options) as unfinished:
            (unfinished / "a").write_text(content)
            if content == "broken":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("broken", replaces=True)
    with pytest.raises(OSError, match="not empty"):
        fill("2")
    rename = os.rename

    def fails_at_the_end(source, target):
        if Path(target) == place and "replaced" not in str(source):
            raise OSError("no more")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails_at_the_end)
        with pytest.raises(OSError, match="no more"):
            fill("2", replaces=True)
    assert (place / "a").read_text() == "1"
    fill("2", replaces=True)
    assert (place / "a").read_text() == "2"
    assert [path.name for path in place.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, number):
    path = tmp_path / "x.json"
    path.write_text("before")
    told = rf"{path}: cannot be written, since test.losses\[1\] is {number} and JSON has no such number."
    with pytest.raises(UserError, match=told):
        write_json(path, {"val": {"loss": 1.0}, "test": {"losses": [0.5, number]}})
    with pytest.raises(UserError, match=f"{path}: cannot be written, since loss is {number} "):
        write_jsonl(path, [{"loss": 1.0}, {"loss": number}])
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_text_is_written_as_it_is(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [{"id": "ä"}, {"id": "b"}])
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == '{"id": "ä"}\n{"id": "b"}\n'
    with whole_text_file(tmp_path / "y") as file:
        file.write("y")
    assert (tmp_path / "y").read_text() == "y"


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "new.json", {})
        (tmp_path / "old.json").write_text("{}")
        (tmp_path / "old.json").chmod(0o644)
        write_json(tmp_path / "old.json", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_a_link_at_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "last.ckpt"
    victim.write_text("precious")
    path.symlink_to(victim)
    with whole_file(path) as file:
        file.write(b"new")
    assert (victim.read_text(), path.is_symlink(), path.read_text()) == ("precious", False, "new")


def test_a_link_in_the_way_of_the_unfinished_file_is_an_error(tmp_path, monkeypatch):
    """Its name cannot be guessed; here it was."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "guessed")
    (tmp_path / ".last.ckpt.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError), whole_file(tmp_path / "last.ckpt") as file:
        file.write(b"new")
    assert victim.read_text() == "precious"
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(OSError), open(tmp_path / "log", "ab", opener=open_no_link):
        pass
    assert victim.read_text() == "precious"


def test_a_name_as_long_as_can_be(tmp_path):
    write_json(tmp_path / ("é" * 100 + "x" * 50 + ".json"), {})
    assert len(list(tmp_path.iterdir())) == 1


def test_files_are_written_whole_by_one_writer():
    """What else renames, makes temporary files or opens for writing has a reason."""
    reasons = {
        "files.py": "the writer",
        "apps/shared/launch.py": "a folder for messages between processes",
        "apps/shared/ranks.py": "the job, in that folder; and no output of other ranks",
        "apps/shared/rank_main.py": "a message, in that folder",
        "backbones/visual_xray.py": "a sentence that says how to write weights",
        "comparison/processes.py": "a log, which grows; no link is followed",
        "data/downloads/datasets_folder.py": "images and a cache, in folders that are gone after the command",
        "data/prepare/growing_files.py": "files that grow in a folder that is renamed; no link is followed",
        "data/prepare/work_folder.py": "that folder",
        "models/saved_generator.py": "what is uploaded, in a folder that is gone afterwards",
        "metrics/meteor.py": "the errors of a process, without a name",
    }
    renames, opens = (
        r"os\.(replace|rename)|\.rename\(|tempfile",
        r"write_(text|bytes)\(|open\([^)]*[\"'][wax]b?\+?[\"']",
    )
    writes = rf"{renames}|{opens}|torch\.save\([^{{,]+, [^f]"
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(writes, line) and not re.match(r"\s*(#|>>>|\.\.\.)", line)
    }
    assert found <= reasons.keys(), found - reasons.keys()
