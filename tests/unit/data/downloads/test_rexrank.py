"""ReXrank's JSON as a source: sections that are NaN, paths with a slash before them, splits, and what is wrong told in a line."""

import json

import pytest

from hardneg_plugin.data.downloads.rexrank import ReXrankStudies
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.errors import UserError


def entry(*images, **more):
    return {
        "key_image_path": images[-1] if images else None,
        "image_path": list(images),
        "section_findings": "Clear.",
        **more,
    }


@pytest.fixture
def home(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path


def source(home, *contents, **options):
    files = []
    for number, content in enumerate(contents):
        files.append(home / f"{number}.json")
        files[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    return ReXrankStudies(files if len(files) > 1 else files[0], home / "images", **options)


def test_sections_images_and_splits(home):
    train = {
        "a": entry("/a/0.png", "a/1.png", section_impression="Normal.", split="train", subject_id=7),
        "b": entry("b/0.png", "b/9.png", section_findings=float("nan"), section_impression=float("nan"), split="valid"),
    }
    test = {"c": entry("c.png", section_impression="None", split="Test"), "d": entry()}
    images = home / "images"
    found = source(home, train, test)
    assert len(found) == 4
    assert (
        list(found)
        == list(found)
        == [
            OriginalStudy(
                "a", (images / "a/0.png", images / "a/1.png"), "Clear.", "Normal.", patient="7", split="train"
            ),
            DroppedEntry("b", "image not found", "b/9.png"),
            OriginalStudy("b", (images / "b/0.png",), split="val"),
            DroppedEntry("c", "image not found", "c.png"),
            DroppedEntry("c", "no image"),
            DroppedEntry("d", "no split"),
        ]
    )
    (only,) = source(home, {"a": train["a"]}, views="key")
    assert only.images == (images / "a/1.png",)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (["[]"], "Expected an object with an entry for each study in"),
        (["{}"], "but got an empty one"),
        (['{"a": 3}'], "study 'a': expected an object, but got a number"),
        ([{"a": entry("x.png")}, {"a": entry("x.png")}], "1.json: study 'a' is repeated"),
        ([{"a": entry(3)}], 'study \'a\': expected "image_path" to be a list of paths, but got [3]'),
        ([{"a": entry("x.png", section_findings=3)}], 'expected "section_findings" to be a text or missing, but got a number'),
        ([{"a": entry("x.png", split="dev2")}], "expected \"split\" to be train, val or test, but got 'dev2'"),
        ([{"a": entry("../x.png")}], "Expected paths inside"),
        (["{"], "Expected JSON in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(home, contents, told):
    with pytest.raises(UserError) as error:
        list(source(home, *contents))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_are_checked(home):
    with pytest.raises(UserError, match="Expected `views` to be 'all' or 'key', but got 'frontal'"):
        source(home, {"a": entry()}, views="frontal")
    with pytest.raises(UserError, match="Expected a folder of images"):
        ReXrankStudies(home / "0.json", home / "none")
