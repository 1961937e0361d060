"""The page in Chromium, as people use it: by pointer, by keys, on a phone."""

import dataclasses
import io
import json
import shutil
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.evaluation.inspected_study import FoundEntity, Reading
from hardneg_plugin.pages.content import PageContent, StudyContent
from hardneg_plugin.pages.from_runs import boxes_of
from hardneg_plugin.pages.render import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = webdriver.Keys

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with chromedriver here"),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Opened:
    """A page in the browser."""

    def __init__(self, browser):
        self.browser = browser

    def open(self, path, content):
        write_page(path, content)
        self.browser.get(path.as_uri())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def at_size(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def go(self, address=""):
        """As a link of that address does, at once."""
        self.run("document.activeElement.blur(); history.replaceState(null, '', '#' + arguments[0]); show()", address)

    def wait_until_shown(self, selector):
        """After a click on a link or a step back: the browser tells the page of its new address a little later."""
        WebDriverWait(self.browser, 10).until(lambda _: self.one(selector).is_displayed())

    def wait_until_gone(self, selector):
        """After a dialog is closed: the browser tells the page of it a little later."""
        WebDriverWait(self.browser, 10).until(lambda _: not self.all(selector))

    def press(self, *keys):
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def choose(self, selector, value):
        self.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))",
            self.one(selector),
            value,
        )

    @property
    def listed(self):
        return self.run("return [...document.querySelectorAll('#list a')].map((link) => link.dataset.study)")

    @property
    def study(self):
        return self.one("#study-heading").text

    @property
    def address(self):
        return self.run("return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")

    @property
    def heated(self):
        return self.run("return [...document.querySelectorAll('.frame canvas')].some((map) => map.checkVisibility())")


@pytest.fixture(scope="module")
def loaded(browser, content, tmp_path_factory):
    page = Opened(browser)
    page.at_size(1300, 900)
    page.open(tmp_path_factory.mktemp("page") / "page.html", content)
    return page


@pytest.fixture
def page(loaded):
    loaded.go()
    return loaded


def wrong(study):
    return any(became == "wrong" for written in study.written.values() for _, became in written.findings)


def test_it_loads_with_the_first_study_shown(page, content):
    assert page.listed == [study.id for study in content.studies]
    assert page.study == content.studies[0].id
    assert page.one("#count").text == "12 studies"
    assert page.one(".reference .text").text == content.studies[0].reference
    sizes = page.run(
        "return [...document.querySelectorAll('.looked img')].map((it) => [it.naturalHeight, it.naturalWidth])"
    )
    assert sizes == [list(view.shape) for view in content.studies[0].views]


def test_a_search_finds_ids_references_and_generated_texts_as_they_are_typed(page, content):
    field = page.one("#query")
    field.send_keys("Pneumo")
    typed = [
        study.id
        for study in content.studies
        if any("pneumo" in text.lower() for text in (study.reference, *(by.text for by in study.written.values())))
    ]
    assert page.listed == typed
    assert 0 < len(typed) < 12
    assert page.one("#count").text == f"{len(typed)} of 12 studies"
    field.clear()
    field.send_keys("test-000007")
    assert page.listed == [page.study] == ["phantom-test-000007"]
    field.send_keys(" no such thing")
    assert page.listed == []
    assert page.one("#count").text == "0 of 12 studies"


@pytest.mark.parametrize("order", ["worst", "best"])
@pytest.mark.parametrize("variant", ["host", "arc"])
def test_studies_are_sorted_by_a_score_of_a_variant(page, content, variant, order):
    page.choose("#sort", json.dumps([variant, "BLEU-4"], separators=(",", ":")))
    page.choose("#order", order)
    ordered = sorted(
        content.studies, key=lambda study: study.written[variant].scores["BLEU-4"], reverse=order == "best"
    )
    assert page.listed == [study.id for study in ordered]
    assert page.study == ordered[0].id
    shown = page.run("return [...document.querySelectorAll('#list .value')].map((value) => value.textContent)")
    assert shown == [f"{study.written[variant].scores['BLEU-4']:.3f}" for study in ordered]


def test_filters_leave_what_they_say(page, content):
    page.choose("#disagreement", "texts")
    texts = [study.id for study in content.studies if len({by.text for by in study.written.values()}) > 1]
    assert page.listed == texts
    page.choose("#disagreement", "findings")
    differ = [s.id for s in content.studies if len({frozenset(by.findings) for by in s.written.values()}) > 1]
    assert page.listed == differ
    page.choose("#disagreement", "")
    page.one("#wrong").click()
    false = [study.id for study in content.studies if wrong(study)]
    assert page.listed == false
    assert 0 < len(differ) < 12
    assert 0 < len(false) < 12


def test_a_word_pointed_at_shows_where_it_looked(page, content):
    study = content.studies[3]
    page.go(f"study={study.id}")
    maps = study.written["arc"].attention
    for index in (0, 4):
        word = page.one(f".written[aria-label=arc] .word[data-index='{index}']")
        webdriver.ActionChains(page.browser).move_to_element(word).perform()
        assert page.heated
        assert study.written["arc"].words[index] in page.one(".legend output").text
        view = int(maps[index].max((1, 2)).argmax())
        canvas = page.all(".looked .frame canvas")[view]
        image = Image.open(io.BytesIO(b64decode(page.run("return arguments[0].toDataURL()", canvas).split(",")[1])))
        opacity = np.asarray(image)[:, :, 3]
        hottest = np.array(np.unravel_index(opacity.argmax(), opacity.shape)) / opacity.shape * maps.shape[2:]
        cell = np.array(np.unravel_index(maps[index, view].argmax(), maps.shape[2:])) + 0.5
        assert np.abs(hottest - cell).max() <= 1
        shares = [100 * part.sum(dtype=float) / maps[index].sum(dtype=float) for part in maps[index]]
        shown = [float(share.text.strip(" ·%")) for share in page.all(".looked .share")]
        assert shown == pytest.approx(shares, abs=0.51)
    webdriver.ActionChains(page.browser).move_to_element(page.one("h1")).perform()
    assert not page.heated


def test_words_are_reached_by_keys_and_escape_clears(page, content):
    first = page.one(".written[aria-label=host] .word")
    page.run("arguments[0].focus()", first)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.heated
    assert page.run("return document.activeElement.dataset.index") == "1"
    assert page.study == content.studies[0].id
    assert [word.get_attribute("data-index") for word in page.all("[aria-label=host] .word[tabindex='0']")] == ["1"]
    page.press(Keys.ESCAPE)
    assert not page.heated
    page.all(".written[aria-label=host] .word")[2].click()
    webdriver.ActionChains(page.browser).move_to_element(page.one("h1")).perform()
    assert page.heated  # a tapped word stays
    page.press(Keys.ESCAPE)
    assert not page.heated
    webdriver.ActionChains(page.browser).move_to_element(page.all(".written[aria-label=host] .word")[4]).perform()
    assert page.heated
    page.press(Keys.ESCAPE)
    assert not page.heated


def test_keys_go_from_study_to_study_and_to_the_search(page, content):
    ids = [study.id for study in content.studies]
    page.press("k")
    assert page.study == ids[0]
    page.press("j", Keys.ARROW_RIGHT, "j", Keys.ARROW_LEFT)
    assert page.study == ids[2]
    assert page.one("#place").text == "3 of 12"
    assert page.one("#list [aria-current]").get_attribute("data-study") == ids[2]
    page.press("/")
    page.press("j")
    assert page.one("#query").get_attribute("value") == "j"
    page.press(Keys.ESCAPE)
    assert page.run("return document.activeElement === document.body")


def test_the_address_says_what_is_shown_and_can_be_shared(page, content):
    ids = [study.id for study in content.studies]
    page.one("#query").send_keys("no & yes")
    assert page.address["q"] == "no & yes"
    page.go("q=the&order=best&sort=" + json.dumps(["arc", "BLEU-4"], separators=(",", ":")) + f"&study={ids[5]}")
    assert (page.study, page.one("#query").get_attribute("value")) == (ids[5], "the")
    before, address = page.listed, page.run("return location.href")
    page.browser.get("about:blank")
    page.browser.get(address)
    assert (page.study, page.listed) == (ids[5], before)
    page.one("nav [data-view=curves]").click()
    page.wait_until_shown("#curves")
    assert not page.one("#studies").is_displayed()
    assert page.address["q"] == "the"
    page.browser.back()
    page.wait_until_shown("#studies")
    page.go(f"study={ids[4]}&q={ids[1]}")  # not among those found, but asked for
    assert (page.study, page.listed) == (ids[4], [ids[1]])
    page.go("study=nobody&sort=nothing&view=nowhere&differ=x")
    assert (page.study, page.listed) == (ids[0], ids)


def test_differences_are_the_fewest(page):
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = (rng.choice(list("abcd"), rng.integers(0, 12)).tolist() for _ in range(2))
        steps = page.run("return differences(arguments[0], arguments[1])", one, other)
        longest = np.zeros((len(one) + 1, len(other) + 1), int)
        for i, word in enumerate(one):
            for j, second in enumerate(other):
                longest[i + 1, j + 1] = (
                    longest[i, j] + 1 if word == second else max(longest[i, j + 1], longest[i + 1, j])
                )
        assert sum(step["kind"] == "same" for step in steps) == longest[-1, -1]
        assert [step["word"] for step in steps if step["kind"] != "left"] == other
        assert [step["word"] for step in steps if step["kind"] != "added"] == one
        assert [step["index"] for step in steps if step["kind"] != "left"] == list(range(len(other)))


def test_hard_negatives_similarities_and_findings_are_shown(page, content):
    study, neighbour = content.studies[-1], content.neighbours[0]
    page.go(f"study={study.id}")
    told = page.one(".negative")
    assert neighbour.id in told.text
    assert not told.find_elements(By.TAG_NAME, "a")
    assert len(told.find_elements(By.TAG_NAME, "img")) == 2
    kept = page.run(
        "return [...arguments[0].querySelectorAll('.text > :not(del)')].map((it) => it.lastChild && it.textContent)",
        told,
    )
    assert " ".join(kept).replace("added: ", "").split() == neighbour.reference.split()
    numbers = [value.text for value in page.all("[aria-label=arc] .similarities .value")]
    similarities = study.written["arc"].similarities
    assert numbers == [f"{value:.3f}" for value in (similarities.positive, similarities.hard, similarities.hardened)]
    assert not page.all("[aria-label=host] .similarities")
    for variant, written in study.written.items():
        chips = [chip.text.split(maxsplit=2)[1:] for chip in page.all(f"[aria-label={variant}] .findings li")]
        assert sorted(map(tuple, chips)) == sorted((became, finding) for finding, became in written.findings)
    page.go(f"study={content.studies[0].id}")
    page.one(".negative a").click()
    assert page.study == content.studies[1].id


def test_charts_can_be_read(page, content):
    page.go("view=curves")
    titles = [title.text for title in page.all(".chart figcaption")]
    assert titles == [
        "report_loss", "alignment_loss", "train/hardness", "negative similarity, before and after hardening",
        "train/false_negative_share", "val/BLEU-4", "val/findings_attributes_F1",
    ]  # fmt: skip
    bleu = page.all(".chart")[5]
    page.run("arguments[0].focus()", bleu.find_element(By.TAG_NAME, "svg"))
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    curves = [curve for curve in content.curves if curve.name == "val/BLEU-4"]
    shown = [float(output.text) for output in bleu.find_elements(By.TAG_NAME, "output")]
    assert shown == pytest.approx([curve.points[1][1] for curve in curves], rel=1e-3)
    assert bleu.find_element(By.TAG_NAME, "b").text == "step 100"
    dashes = page.run(
        "return [...arguments[0].querySelectorAll(':scope > svg .line')].map((it) => it.getAttribute('stroke-dasharray'))",
        bleu,
    )
    assert len(set(dashes)) == 2
    bleu.find_element(By.TAG_NAME, "summary").click()
    page.browser.implicitly_wait(2)
    last = bleu.find_elements(By.CSS_SELECTOR, "tbody tr:last-child > *")
    page.browser.implicitly_wait(0)
    assert [float(cell.text) for cell in last] == pytest.approx(
        [900, *(curve.points[-1][1] for curve in curves)], rel=1e-3
    )
    webdriver.ActionChains(page.browser).move_to_element(page.all(".chart > svg")[2]).perform()
    assert page.all(".chart")[2].find_element(By.TAG_NAME, "output").text


@pytest.mark.parametrize("view", ["studies", "scores", "curves", "settings"])
def test_a_phone_needs_no_scrolling_to_the_side(page, view):
    page.at_size(360, 740)
    try:
        page.go(f"view={view}")
        assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        beyond = """return [...document.querySelectorAll('button, input, select')].filter(
            (it) => it.checkVisibility() && it.getBoundingClientRect().right > 360).length"""
        assert page.run(beyond) == 0
    finally:
        page.at_size(1300, 900)


def test_every_control_has_a_name(page):
    unnamed = """return [...document.querySelectorAll('button, input, select, a, canvas, img, svg')].filter((it) =>
        !it.closest('[aria-hidden]') && !(it.labels?.length || it.getAttribute('aria-label') || it.textContent.trim() || it.alt)
    ).map((it) => it.outerHTML.slice(0, 80))"""
    assert page.run(unnamed) == []


def test_only_what_a_word_looked_at_more_than_on_the_average_is_coloured(browser, content, tmp_path):
    study = content.studies[0]
    written = study.written["arc"]
    maps = np.full_like(written.attention, 250)  # the first word looked everywhere alike, but for a fiftieth
    maps[0, 0, 0, 0] = 255
    maps[1] = 0
    maps[1, 0, :, :3] = 255  # the second at one side of the first image
    other = {"arc": dataclasses.replace(written, attention=maps)}
    page = Opened(browser)
    page.open(tmp_path / "page.html", dataclasses.replace(content, studies=[dataclasses.replace(study, written=other)]))

    def opacity_of(index):
        word = page.one(f".word[data-index='{index}']")
        webdriver.ActionChains(browser).move_to_element(word).perform()
        picture = page.run("return arguments[0].toDataURL()", page.one(".looked .frame canvas"))
        return np.asarray(Image.open(io.BytesIO(b64decode(picture.split(",")[1]))))[:, :, 3] / 255

    assert opacity_of(0).max() == 0
    assert page.one(".legend output").text == f"“{written.words[0]}”: even attention everywhere"
    opacity = opacity_of(1)
    assert page.one(".legend output").text == f"Where the model looked for “{written.words[1]}”"
    width = opacity.shape[1]
    assert opacity[:, : width // 3].min() > 0.5
    assert opacity[:, -width // 3 :].max() == 0


def test_hostile_texts_do_nothing_and_are_read_as_they_are(browser, hostile, tmp_path):
    page = Opened(browser)
    page.open(tmp_path / "page.html", hostile)
    (study,) = hostile.studies
    assert "taken" not in browser.title.split("=")[0]
    assert browser.title.startswith("</script>")
    for selector in ("#study-heading", ".reference .text", "#list .id"):
        text = page.run("return arguments[0].textContent.toWellFormed()", page.one(selector))
        assert text == study.id.replace("\ud800", "\ufffd")[: len(text)]
        assert len(text) > 60
    assert not page.all("b b, #study script")
    page.run("document.querySelector('.word').focus()")
    assert page.heated
    page.go("view=curves")
    assert len(page.all(".chart")) == 2
    assert [note.text for note in page.all(".chart .empty")] == ["No values were logged."]


@pytest.fixture
def page_of_alignments(browser, aligned, tmp_path):
    page = Opened(browser)
    page.open(tmp_path / "page.html", aligned)
    return page


def test_a_reference_shows_how_important_each_word_is_and_where_it_looks(page_of_alignments, aligned):
    page, study = page_of_alignments, aligned.studies[0]
    read = study.written["words"].reading
    assert (
        page.run("return document.querySelectorAll('.reference .text').length") == 1
    )  # the reading, and no second time
    words = page.all(".reference .word")
    assert [word.text for word in words] == study.reference.split() == read.words
    heights = [float(word.value_of_css_property("border-bottom-width").removesuffix("px")) for word in words]
    tallest = max(heights)
    assert heights == pytest.approx([tallest * weight / max(read.importance) for weight in read.importance], abs=1)
    for index in (2, 5):
        number = f"{read.importance[index]:.3f}"
        webdriver.ActionChains(page.browser).move_to_element(words[index]).perform()
        assert page.heated
        assert (
            page.one(".legend output").text == f"Importance {number} · Where the model looked for “{read.words[index]}”"
        )
        assert words[index].accessible_name == f"{read.words[index]}, importance {number}"
        shares = [
            100 * part.sum(dtype=float) / read.attention[index].sum(dtype=float) for part in read.attention[index]
        ]
        shown = [float(share.text.strip(" ·%")) for share in page.all(".looked .share")]
        assert shown == pytest.approx(shares, abs=0.51)
    webdriver.ActionChains(page.browser).move_to_element(page.one("h1")).perform()
    assert not page.heated


def test_a_reference_that_was_cut_is_there_as_a_whole(page_of_alignments, aligned):
    page, study = page_of_alignments, aligned.studies[1]
    page.go(f"study={study.id}")
    assert len(page.all(".reference .word")) == 5
    assert page.one(".reference .text").text.replace("not read:", "").split() == study.reference.split()
    assert page.one(".unread").text.startswith("not read:")


def test_a_reference_read_in_other_words_stands_beside_it(browser, aligned, tmp_path):
    study = aligned.studies[0]
    read = study.written["words"].reading
    other = replace(study.written["words"], reading=replace(read, words=["<b>"] * len(read.words), importance=None))
    content = replace(aligned, studies=[replace(study, written={"words": other})])
    page = Opened(browser)
    page.open(tmp_path / "page.html", content)
    plain, reading = page.all(".reference .text")
    assert plain.text == study.reference
    assert {word.text for word in reading.find_elements(By.CSS_SELECTOR, ".word")} == {"<b>"}
    page.run("arguments[0].focus()", reading.find_element(By.CSS_SELECTOR, ".word"))
    assert page.one(".legend output").text.endswith("looked for “<b>”")
    assert "Importance" not in page.one(".legend output").text


def test_entities_show_what_became_of_them_and_where_they_are_looked_for(page_of_alignments, aligned):
    page, study = page_of_alignments, aligned.studies[0]
    own = study.written["entities"].entities
    chips = page.all(".written[aria-label=entities] .entity")
    assert not page.all(".written[aria-label=host] .entity, .written[aria-label=words] .entity")
    told = [f"{e.probability:.3f}" if e.probability >= 0.001 else "below 0.001" for e in own]
    marks = ["✓", "?", "✗", "•", "○"]
    assert [chip.text for chip in chips] == [
        f"{mark} {entity.phrase} {number} {entity.verdict}"
        for mark, entity, number in zip(marks, own, told, strict=True)
    ]
    assert [chip.accessible_name for chip in chips] == [
        f"{entity.phrase}, probability {number}, {entity.verdict}" for entity, number in zip(own, told, strict=True)
    ]
    webdriver.ActionChains(page.browser).move_to_element(chips[2]).perform()
    assert page.heated
    assert page.one(".legend output").text == "Probability 0.660 · Where the model looked for “nodule”"
    shares = [100 * part.sum(dtype=float) / own[2].attention.sum(dtype=float) for part in own[2].attention]
    assert [float(share.text.strip(" ·%")) for share in page.all(".looked .share")] == pytest.approx(shares, abs=0.51)
    page.go(f"study={aligned.studies[2].id}")
    assert "No entity is found, and none is known to be stated." in page.one(".written[aria-label=entities]").text


@pytest.mark.parametrize("group", [".weighed", ".looked-for"])
def test_what_alignments_know_is_reached_by_keys_and_by_tapping(page_of_alignments, aligned, group):
    page = page_of_alignments
    items = page.all(f"{group} .word")
    assert [item.get_attribute("tabindex") for item in items] == ["0"] + ["-1"] * (len(items) - 1)  # one stop of Tab
    page.run("arguments[0].focus()", items[0])
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.heated
    assert page.run("return document.activeElement === arguments[0]", items[1])
    assert page.study == aligned.studies[0].id
    page.press(Keys.ESCAPE)
    assert not page.heated
    items[3].click()
    webdriver.ActionChains(page.browser).move_to_element(page.one("h1")).perform()
    assert page.heated
    assert items[3].get_attribute("aria-pressed") == "true"
    page.press(Keys.ESCAPE)
    assert not page.heated


def test_what_alignments_know_fits_a_phone(page_of_alignments, aligned):
    page = page_of_alignments
    page.at_size(360, 740)
    try:
        for study in aligned.studies:
            page.go(f"study={study.id}")
            assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
            beyond = "return [...document.querySelectorAll('.word')].filter((it) => it.getBoundingClientRect().right > 360).length"
            assert page.run(beyond) == 0
    finally:
        page.at_size(1300, 900)


def test_maps_of_entities_need_no_attention_of_the_decoder(browser, aligned, tmp_path):
    study = aligned.studies[0]
    written = {name: replace(by, attention=None) for name, by in study.written.items()}
    page = Opened(browser)
    page.open(tmp_path / "page.html", replace(aligned, studies=[replace(study, written=written)]))
    assert len(page.all(".legend")) == 1
    page.run("arguments[0].focus()", page.one(".entity"))
    assert page.heated


def test_hostile_entities_and_words_are_read_as_they_are(browser, hostile, tmp_path):
    (study,) = hostile.studies
    words = study.reference.split()
    known = replace(
        study.written[study.id],
        reading=Reading(words, [0.1] * len(words), np.full((len(words), 1, 1, 2), 9, np.uint8)),
        entities=[FoundEntity(study.id, 0.9, None, np.full((1, 1, 2), 9, np.uint8))],
    )
    page = Opened(browser)
    page.open(tmp_path / "page.html", replace(hostile, studies=[replace(study, written={study.id: known})]))
    assert browser.title.startswith("</script>")
    assert [
        page.run("return arguments[0].textContent.toWellFormed()", word) for word in page.all(".weighed .word")
    ] == [word.replace("\ud800", "\ufffd") for word in words]
    (entity,) = page.all(".entity")
    assert study.id.split("\u2028")[0] in page.run("return arguments[0].textContent.toWellFormed()", entity)
    assert not page.all("#study script")


def test_pages_with_little_on_them_are_told_so(browser, tmp_path):
    page = Opened(browser)
    nothing = PageContent("t", [], [], [], [], {}, [], {})
    page.open(tmp_path / "empty.html", nothing)
    assert page.one("#studies .empty").text == "There are no studies on this page."
    page.open(tmp_path / "bare.html", replace(nothing, studies=[StudyContent("s", [], "a report", {})]))
    assert "This study has no image." in page.one("#study").text
    assert "There is no generated report of this study." in page.one("#study").text


@pytest.fixture
def page_of_comparison(browser, compared, tmp_path):
    page = Opened(browser)
    page.open(tmp_path / "page.html", compared)
    return page


def test_a_comparison_is_seen_first_and_its_studies_where_variants_differ(page_of_comparison, compared):
    page = page_of_comparison
    assert [section.get_attribute("id") for section in page.all("main > section") if section.is_displayed()] == [
        "comparison"
    ]
    assert len(page.all(".forest svg")) == 2
    page.go("view=studies")
    scores = {
        study.id: [by.scores["findings_attributes_F1"] for by in study.written.values()] for study in compared.studies
    }
    apart = [max(scores[study]) - min(scores[study]) for study in page.listed]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > apart[-1]
    assert [float(value.text) for value in page.all("#list .value")] == pytest.approx(apart, abs=0.001)
    assert page.one("#order option:checked").text == "largest first"


def test_the_address_of_a_study_alone_shows_it(page_of_comparison, compared):
    page = page_of_comparison
    page.go(f"study={compared.studies[5].id}")
    assert page.one("#studies").is_displayed()
    assert page.study == compared.studies[5].id
    page.go("view=comparison")
    page.run("location.reload()")
    page.wait_until_shown("#comparison")  # the address that was written keeps the view
    assert not page.one("#studies").is_displayed()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_comparison_fits_the_window(page_of_comparison, width):
    page = page_of_comparison
    page.at_size(width, 844)
    try:
        assert page.run("return document.documentElement.scrollWidth") <= width
        ends = page.run(
            "return [...document.querySelectorAll('.forest text')].map((it) => it.getBoundingClientRect().right)"
        )
        assert max(ends) <= width
    finally:
        page.at_size(1300, 900)


@pytest.fixture
def page_with_boxes(browser, content, tmp_path):
    split = PhantomStudies(test=13, size=64).split("test")
    studies = [
        replace(study, boxes=boxes_of(split, row), original=f"As: {study.reference}")
        for row, study in enumerate(content.studies)
    ]
    page = Opened(browser)
    page.open(tmp_path / "page.html", replace(content, studies=studies))
    boxed = next(study for study in studies if study.boxes)
    page.go(f"study={boxed.id}")
    return page, boxed


def test_boxes_lie_over_what_they_show_and_can_be_switched_off(page_with_boxes):
    page, study = page_with_boxes
    frames = page.all(".looked .frame")
    places = [
        page.run(
            """const [rect, frame] = [...arguments].map((it) => it.getBoundingClientRect());
            return [(rect.top - frame.top) / frame.height, (rect.left - frame.left) / frame.width,
            (rect.bottom - frame.top) / frame.height, (rect.right - frame.left) / frame.width]""",
            rect,
            frame,
        )
        for frame in frames
        for rect in frame.find_elements(By.CSS_SELECTOR, ".boxes rect")
    ]
    boxes = sorted(study.boxes, key=lambda box: box.view)
    assert places == [pytest.approx(box.place, abs=0.02) for box in boxes]
    assert page.one(".boxed").text == f"Boxes: {', '.join(dict.fromkeys(box.label for box in study.boxes))}"
    page.one(".boxed input").click()
    assert not any(drawn.is_displayed() for drawn in page.all(".looked .boxes"))
    page.one(".boxed input").click()
    assert all(drawn.is_displayed() for drawn in page.all(".looked .boxes"))


def test_a_view_is_seen_larger_by_pointer_and_keys(page_with_boxes):
    page, study = page_with_boxes
    small = page.one(".looked .frame").rect["width"]
    page.one(".looked .frame").click()
    page.wait_until_shown(".whole")
    width = page.one(".whole").rect["width"]
    assert width > 1.5 * small
    assert len(page.all(".whole rect")) == sum(box.view == 0 for box in study.boxes)
    page.press("+", "+")
    assert page.one(".whole").rect["width"] == pytest.approx(2.25 * width, rel=0.01)
    assert page.run("return arguments[0].scrollLeft > 0", page.one(".stage"))  # stays with the middle
    page.press("-", "-", "-", "-")
    assert page.one(".whole").rect["width"] == pytest.approx(width, rel=0.01)
    page.press("j")
    assert page.study == study.id
    page.press(Keys.ESCAPE)
    page.wait_until_gone("dialog")
    page.press("j")
    assert page.study != study.id


def test_a_view_that_was_kept_larger_is_enlarged_in_its_own_size(browser, content, tmp_path):
    study = content.studies[0]
    large = [np.full((120 + 40 * view, 200), 99, np.uint8) for view in range(len(study.views))]
    page = Opened(browser)
    page.open(tmp_path / "page.html", replace(content, studies=[replace(study, large=large)]))
    page.all(".looked .frame")[1].click()
    page.wait_until_shown(".whole")
    assert page.run(
        "const image = arguments[0]; return [image.naturalHeight, image.naturalWidth]", page.one(".whole img")
    ) == [160, 200]
    page.press(Keys.ESCAPE)


def test_a_report_is_there_as_written_and_a_link_leads_to_its_study(page_with_boxes):
    page, study = page_with_boxes
    assert page.one(".reference .text").text == study.reference
    assert page.one(".original .text").text == study.original
    link = page.one("#study-link").get_attribute("href")
    page.go()
    page.go(link.partition("#")[2])
    assert page.study == study.id


def test_names_of_scores_are_explained(page):
    names = {name.text: name.get_attribute("title") for name in page.all(".measures dt")}
    assert names["findings_attributes_F1"] == "Findings with every attribute, such as side and size."
    page.go("view=scores")
    titles = {name.text: name.get_attribute("title") for name in page.all("#scores tbody th")}
    assert titles["length"] == "Mean number of words."


def test_nothing_was_requested_and_nothing_complained(browser):
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].split(":")[0]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data", "about"}
    assert "file" in asked
