"""Which studies the arguments of hardneg-predict name."""

import json
import shlex
from pathlib import Path

import pytest

from hardneg_plugin.apps.shared.image_arguments import MOST_VIEWS, StudyFiles, studies_of_arguments
from hardneg_plugin.data.downloads.listed import ListedStudies
from hardneg_plugin.errors import UserError

ROWS = [("a", "a/0.png|a/1.png"), ("b", "b.png")]
TABLES = {
    "studies.csv": "id,images\na,a/0.png|a/1.png\nb,b.png\n",
    "spreadsheet.csv": "\ufeffStudy ID,Image Path,Report\na,a/0.png;a/1.png,x\nb,b.png,x\n",
    "a row each.csv": "study_id,image\na,a/0.png\nb,b.png\na,a/1.png\n",
    "json in a cell.csv": 'id,images\na,"[""a/0.png"", ""a/1.png""]"\nb,b.png\n',
    "studies.tsv": "id\timages\na\ta/0.png|a/1.png\nb\tb.png\n",
    "studies.jsonl": '{"id": "a", "images": ["a/0.png", "a/1.png"]}\n{"id": "b", "image_path": "b.png"}\n',
    "studies.json": json.dumps([{"id": "a", "images": ["a/0.png", "a/1.png"]}, {"id": "b", "images": "b.png"}]),
}
"""The same two studies in every way that hardneg-prepare reads."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/0.png", "a/1.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    return tmp_path


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_prepare_reads_it(folder, name):
    (folder / name).write_text(TABLES[name], encoding="utf-8")
    studies = studies_of_arguments([name])
    assert [(study.id, [path.as_posix() for path in study.files]) for study in studies] == [
        ("a", ["a/0.png", "a/1.png"]),
        ("b", ["b.png"]),
    ]
    if "eport" in TABLES[name]:  # prepare needs reports
        prepared = {study.id: [str(path.relative_to(folder)) for path in study.images] for study in ListedStudies(name)}
        assert prepared == {study.id: [str(path) for path in study.files] for study in studies}


def test_other_names_of_columns_and_paths_anywhere(folder):
    (folder / "below").mkdir()
    (folder / "below" / "mine.csv").write_text(f"uid,path\na,../b.png\nc,{folder / 'b.png'}\n")
    studies = studies_of_arguments(["below/mine.csv"], {"id": "uid", "images": "path"})
    assert [[path.is_file() for path in study.files] for study in studies] == [[True], [True]]
    with pytest.raises(UserError, match=r"pass their names: 'columns=\{id: NAME, images: NAME\}'"):
        studies_of_arguments(["below/mine.csv"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id,images\n,b.png\n", "line 2: expected an id and at least one image"),
        ("id,images\na,\n", "line 2: expected an id and at least one image"),
        ("id,images\n", "Expected studies in t.csv, but there is none."),
        ("id,images\na\n", "Expected 2 cells"),
    ],
)
def test_what_is_wrong_with_a_table(folder, content, told):
    (folder / "t.csv").write_text(content)
    with pytest.raises(UserError) as refused:
        studies_of_arguments(["t.csv"])
    assert told in str(refused.value)


def test_a_folder_of_many_images_below_a_folder_is_not_taken_for_a_study(folder):
    many = folder / "my images"
    many.mkdir()
    for index in range(MOST_VIEWS + 1):
        (many / f"{index:02}.png").write_bytes(b"image")
    with pytest.raises(UserError) as refused:
        studies_of_arguments(["."])
    message = str(refused.value)
    assert "my images holds 13 images, too many views of one study" in message
    argument = shlex.split(message.split("Where each is a study: ")[1].rstrip("."))[-1]  # as one would paste it
    assert len(studies_of_arguments([argument])) == MOST_VIEWS + 1
    (many / "00.png").unlink()
    assert StudyFiles("my images", tuple(sorted(Path("my images").iterdir()))) in studies_of_arguments(["."])


def test_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (study,) = studies_of_arguments(["~/b.png"])
    assert study.files == (folder / "b.png",)
