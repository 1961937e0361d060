"""The page as text: nothing a report holds becomes markup, and what was put in comes out again."""

import base64
import csv
import io
import json
import math
import re
from hashlib import sha256
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from hardneg_plugin.evaluation.inspected_study import FoundEntity, InspectedStudy, Reading
from hardneg_plugin.pages.content import Curve, DrawnBox, PageContent, Score, StudyContent
from hardneg_plugin.pages.render import render, write_page


class Page(HTMLParser):
    """Which elements a page has, with the text in each <script>, <style> and table cell, and in all of it."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inside, self.cells, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        self.inside = self.elements[-1][2]

    def handle_endtag(self, tag):
        self.inside = []  # what follows is of no element's beginning

    def handle_data(self, data):
        self.inside.append(data)
        self.text += data

    def all(self, tag):
        return [(attributes, "".join(texts)) for name, attributes, texts in self.elements if name == tag]

    def json(self, name):
        (text,) = [text for attributes, text in self.all("script") if attributes.get("id") == name]
        return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def empty(**fields):
    lists = {name: [] for name in ("notes", "variants", "studies", "neighbours", "curves")}
    return PageContent(**({"title": "t", "scores": {}, "configs": {}} | lists | fields))


def written(words=(), attention=None):
    return InspectedStudy(" ".join(words), attention)


def known(views, of_entities=0):
    """What an alignment knows of a study with so many views."""
    return InspectedStudy(
        "",
        reading=Reading(["a"], None, np.zeros((1, views, 2, 2), np.uint8)),
        entities=[FoundEntity("e", 0.9, None, np.zeros((of_entities, 2, 2), np.uint8))],
    )


def test_texts_come_out_of_the_data_as_they_went_in(content):
    data = Page(render(content)).json("data")
    assert data["variants"] == content.variants
    for study, told in zip(content.studies, data["studies"], strict=True):
        assert (told["id"], told["reference"]) == (study.id, study.reference)
        for variant, by in study.written.items():
            there = told["written"][variant]
            assert (there["text"], there["words"], there["hard_negative"]) == (by.text, by.words, by.hard_negative)
            assert [tuple(pair) for pair in there["findings"]] == by.findings
            assert there["scores"] == pytest.approx(by.scores, rel=1e-5)
            if by.similarities:
                assert there["similarities"] == pytest.approx(vars(by.similarities), rel=1e-5)
    assert [study["id"] for study in data["neighbours"]] == [study.id for study in content.neighbours]
    for curve, told in zip(content.curves, data["curves"], strict=True):
        assert (told["variant"], told["name"]) == (curve.variant, curve.name)
        np.testing.assert_allclose(told["points"], curve.points, rtol=1e-5, atol=1e-12)


def test_attention_and_images_come_out_as_they_went_in(content):
    page = Page(render(content))
    for index, study in enumerate([*content.studies, *content.neighbours]):
        pictures = page.json(f"pictures-{index}")
        for variant, by in study.written.items():
            values = np.frombuffer(base64.b64decode(pictures["attention"][variant]), np.uint8)
            np.testing.assert_array_equal(values.reshape(by.attention.shape), by.attention)
        for view, picture in zip(study.views, pictures["views"], strict=True):
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["jpeg"]))), dtype=float)
            assert (picture["height"], picture["width"]) == image.shape == view.shape
            assert np.abs(image - view).mean() < 6  # most of it noise: at 64 pixels each is an edge


def maps_of(told, *leading):
    values = np.frombuffer(base64.b64decode(told["attention"]), np.uint8)
    return values.reshape(*leading, *told["grid"])


def test_what_alignments_know_comes_out_as_it_went_in(aligned):
    page = Page(render(aligned))
    for index, study in enumerate(aligned.studies):
        pictures = page.json(f"pictures-{index}")
        read, told = study.written["words"].reading, pictures["readings"].pop("words")
        assert told["words"] == read.words
        assert told["importance"] == pytest.approx(read.importance, rel=1e-2)
        np.testing.assert_array_equal(maps_of(told, len(read.words), len(study.views)), read.attention)
        entities, told = study.written["entities"].entities, pictures["entities"].pop("entities")
        assert [tuple(each) for each in told["found"]] == [
            (each.phrase, each.probability, each.verdict) for each in entities
        ]
        for own, entity in zip(maps_of(told, -1, len(study.views)) if entities else (), entities, strict=True):
            np.testing.assert_array_equal(own, entity.attention)
        assert not pictures["readings"]
        assert not pictures["entities"]


def test_pages_without_what_alignments_know_hold_nothing_of_it(content, aligned):
    bare, known = render(content), render(aligned)
    for text in ("withAlignments", ".weighed", '"readings":', '"entities":'):
        assert text in known
        assert text not in bare
    assert json.loads(json.dumps(Page(bare).json("pictures-0"))).keys() == {"views", "attention"}


def test_what_alignments_know_of_600_studies_stays_under_20_megabytes(aligned):
    maps = np.full((60, 2, 7, 7), 255, np.uint8)
    read = Reading(["pneumothorax"] * 60, [0.0123] * 60, maps)
    entities = [FoundEntity("left upper lobe consolidation", 0.512, 0, own) for own in maps[:30]]
    view = np.zeros((8, 8), np.uint8)

    def size(count, **known):
        of = {"a": InspectedStudy("", **known)}
        studies = [StudyContent(str(index), [view, view], "r", of) for index in range(count)]
        return len(render(empty(variants=["a"], studies=studies)))

    known, bare = (size(3, **some) - size(1, **some) for some in ({"reading": read, "entities": entities}, {}))
    assert 600 * (known - bare) / 2 < 20e6


@pytest.mark.parametrize(
    ("shape", "size"),
    [((640, 480), (320, 240)), ((200, 100), (200, 100)), ((3, 4000), (1, 320)), ((1, 1), (1, 1))],
    ids=["large", "small", "strip", "one pixel"],
)
def test_images_are_at_most_320_pixels_and_never_enlarged(shape, size):
    view = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 2), np.uint8)[:, :, 0].T  # not contiguous
    page = Page(render(empty(studies=[StudyContent("s", [view], "r", {})])))
    (picture,) = page.json("pictures-0")["views"]
    assert (picture["height"], picture["width"]) == size
    assert Image.open(io.BytesIO(base64.b64decode(picture["jpeg"]))).size == size[::-1]


def test_hostile_texts_stay_texts(hostile):
    (study,) = hostile.studies
    text = render(hostile)
    page = Page(text)
    assert [attributes.get("id") for attributes, _ in page.all("script")] == ["data", "pictures-0", "pictures-1", None]
    assert not page.all("b")
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    data = page.json("data")
    assert data["studies"][0]["id"] == data["studies"][0]["reference"] == study.id
    assert data["studies"][0]["written"][study.id]["findings"] == [
        [study.id, kind] for kind in ("correct", "wrong", "missed")
    ]
    assert "{{ 7*7 }} {% x %}" in page.all("title")[0][1]
    assert page.all("title")[0][1] == study.id.replace("\ud800", "?")
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert len(blocks) == 3
    assert not set("<>&\u2028\u2029") & set("".join(blocks))


def test_what_is_no_number_is_null_in_the_data_and_a_dash_in_the_table(hostile):
    page = Page(render(hostile))
    data = page.json("data")
    by = data["studies"][0]["written"][hostile.variants[0]]
    assert list(by["scores"].values()) == [None, None]
    assert by["similarities"] == {"positive": None, "hard": None, "hardened": -1.0}
    assert data["curves"][0]["points"] == [[0, None], [1, None], [2, 0.5]]
    assert [text.strip() for attributes, text in page.all("span") if attributes.get("class") == "unknown"] == ["–"]
    assert "0.500" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text.split("document")[0].replace('"inf"', ""), re.IGNORECASE)


def test_nothing_may_run_or_load_but_the_page_itself(content):
    page = Page(render(content))
    (policy,) = [it["content"] for it, _ in page.all("meta") if it.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (script,) = [text for attributes, text in page.all("script") if "type" not in attributes]
    ((_, style),) = page.all("style")
    for kind, source in (("script-src", script), ("style-src", style)):
        assert rules[kind] == f"'sha256-{base64.b64encode(sha256(source.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert not any({"src", "style"} & set(attributes) for _, attributes, _ in page.elements)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|fetch\(|XMLHttpRequest", script)
    assert [attributes["href"] for attributes, _ in page.all("link")] == ["data:,"]


def test_the_table_has_each_score_with_its_interval_where_there_is_one():
    scores = {
        "a": {"BLEU-4": Score(0.25, 0.2, 0.3), "length": Score(41.52, None, None)},
        "b": {"BLEU-4": Score(0.4, 0.35, 0.6), "extra": Score(-0.5, None, 0.2)},
    }
    page = Page(render(empty(variants=["a", "b", "c"], scores=scores)))
    cells = [" ".join(text.split()) for attributes, text in page.all("td") if attributes.get("class") == "number"]
    assert cells == ["0.250", "0.400", "", "41.5", "", "", "", "-0.500", ""]
    assert [text for _, text in page.all("small")] == ["0.200 to 0.300", "0.350 to 0.600"]
    assert [text for attributes, text in page.all("th") if attributes.get("scope") == "row"] == [
        "BLEU-4",
        "length",
        "extra",
    ]
    # on an axis from 0 to 0.6; one known score is not drawn
    lines = [(float(line["x1"]), float(line["x2"])) for line, _ in page.all("line")]
    assert lines == [pytest.approx((33.33, 50), abs=0.01), pytest.approx((58.33, 100), abs=0.01)]
    assert [float(circle["cx"]) for circle, _ in page.all("circle")] == pytest.approx([41.67, 66.67], abs=0.01)


def test_baselines_stand_beside_the_scores_and_all_are_in_the_csv():
    scores = {"a": {"BLEU-4": Score(0.25, 0.2, 0.3), "R@1": Score(0.5, None, None)}}
    baselines = {"most frequent report": {"BLEU-4": 0.125, "METEOR": 0.5}}
    page = Page(render(empty(variants=["a"], scores=scores, baselines=baselines)))
    assert [text for it, text in page.all("th") if it.get("class") == "number baseline"] == ["most frequent report"]
    assert [text.strip() for it, text in page.all("td") if it.get("class") == "number baseline"] == ["0.125", ""]
    (link,) = [it["href"] for it, _ in page.all("a") if it.get("download") == "scores.csv"]
    assert list(csv.reader(io.StringIO(unquote(link.partition(",")[2])))) == [
        ["variant", "score", "value", "low", "high"],
        ["a", "BLEU-4", "0.25", "0.2", "0.3"],
        ["a", "R@1", "0.5", "", ""],
        ["most frequent report", "BLEU-4", "0.125", "", ""],
        ["most frequent report", "METEOR", "0.5", "", ""],
    ]


def test_scores_that_are_zero_are_not_drawn():
    scores = {"a": {"x": Score(0.0, 0.0, 0.0)}, "b": {"x": Score(0.0, 0.0, 0.0)}}
    assert Page(render(empty(variants=["a", "b"], scores=scores))).all("circle") == []


def test_a_page_of_nothing_says_so():
    page = Page(render(empty()))
    told = [text for attributes, text in page.all("p") if attributes.get("class") == "empty"]
    assert [text.removeprefix("There are no ") for text in told] == [
        f"{what} on this page." for what in ("studies", "scores", "training curves", "configs")
    ]


def test_600_studies_of_two_views_stay_under_60_megabytes():
    rng = np.random.default_rng(0)
    words = [f"w{index}" for index in range(80)]
    maps = rng.integers(0, 256, (80, 2, 7, 7)).astype(np.uint8)
    # rougher than radiographs: smooth fields with the noise of a detector
    smooth = Image.fromarray(rng.integers(0, 256, (12, 12)).astype(np.uint8)).resize(
        (320, 320), Image.Resampling.BICUBIC
    )
    view = np.clip(np.asarray(smooth) + rng.normal(0, 6, (320, 320)), 0, 255).astype(np.uint8)

    def size(count):
        of = {variant: written(words, maps) for variant in ("host", "arc")}
        studies = [StudyContent(str(index), [view, view], " ".join(words), of) for index in range(count)]
        return len(render(empty(variants=["host", "arc"], studies=studies)))

    assert size(1) + 599 * (size(5) - size(1)) / 4 < 60e6


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: written(["a", "b"], np.zeros((1, 1, 2, 2), np.uint8)), "2 words, views, rows, columns"),
        (lambda: written(["a"], np.zeros((1, 1, 2, 2))), "float64"),
        (
            lambda: StudyContent("s7", [], "r", {"arc": written(["a"], np.zeros((1, 2, 2, 2), np.uint8))}),
            "the 0 views of s7, but one of arc is over 2",
        ),
        (lambda: StudyContent("s7", [], "r", {"arc": known(2)}), "the 0 views of s7, but one of arc is over 2"),
        (lambda: StudyContent("s7", [], "r", {"arc": known(0, 3)}), "the 0 views of s7, but one of arc is over 3"),
        (lambda: empty(studies=[StudyContent("s7", [], "r", {})] * 2), "s7"),
        (lambda: StudyContent("s7", [], "r", {}, large=[np.zeros((4, 4), np.uint8)]), "0 large views of s7, but got 1"),
        (lambda: StudyContent("s7", [], "r", {}, boxes=[DrawnBox(0, "nodule", (0, 0, 1, 1))]), "the 0 views of s7"),
        (lambda: empty(curves=[Curve("arc", "train/hardness", [])]), "['arc']"),
    ],
    ids=["rows", "type", "views", "views of words", "views of entities", "ids", "large", "boxes", "variants"],
)
def test_content_that_does_not_fit_together_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_a_page_is_written_whole_or_not_at_all(content, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "page.html"
    write_page(path, content)
    assert path.read_text(encoding="utf-8") == render(content)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_page(path, empty())
    assert path.read_text(encoding="utf-8") == render(content)
    assert list(path.parent.iterdir()) == [path]


def test_values_beyond_floats_are_not_numbers():
    scores = {"a": {"x": Score(math.nan, 0.1, 0.2)}, "b": {"x": Score(0.5, math.inf, 0.6)}}
    page = Page(render(empty(variants=["a", "b"], scores=scores)))
    assert page.all("small") == page.all("circle") == []
