"""What a reader cannot see makes no difference."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.data.downloads.mimic_reports import _divided
from hardneg_plugin.data.downloads.study import OriginalStudy, as_seen
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.data.texts import visible_text
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import match_key
from hardneg_plugin.metrics.records import make_record, read_predictions

PLAIN = 'The patient\'s findings: no "effusion" - caf\u00e9.'
ALIKE = {
    "decomposed": unicodedata.normalize("NFD", PLAIN),
    "no-break spaces": PLAIN.replace(" ", "\u00a0"),
    "narrow and wide spaces": PLAIN.replace(" ", "\u202f", 1).replace(" ", "\u3000"),
    "zero-width spaces": PLAIN.replace("e", "e\u200b"),
    "joiners": PLAIN.replace("e", "e\u200d\u200c"),
    "word joiners": PLAIN.replace("n", "\u2060n"),
    "soft hyphens": PLAIN.replace("ff", "f\u00adf"),
    "ligatures": PLAIN.replace("ff", "\ufb00").replace("fi", "\ufb01"),
    "byte order mark": "\ufeff" + PLAIN,
    "typographic quotes": PLAIN.replace("'", "\u2019").replace('"', "\u201c"),
    "non-breaking hyphen": PLAIN.replace("-", "\u2011"),
    "en dash": PLAIN.replace("-", "\u2013"),
    "minus": PLAIN.replace("-", "\u2212"),
    "directions": "\u202a" + PLAIN + "\u202c\u200e",
    "variation selector": PLAIN.replace("e", "e\ufe0f"),
    "escape": PLAIN.replace("no", "\x1bno\x07"),
    "C1 control": PLAIN.replace("no", "\x9bno"),
}


@pytest.mark.parametrize("case", ALIKE)
def test_texts_that_look_alike_are_one(case):
    assert ALIKE[case] != PLAIN
    assert visible_text(ALIKE[case]) == PLAIN


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_stays_as_it_is(text):
    assert visible_text(text) == text


@given(st.text())
def test_reading_twice_changes_nothing_more(text):
    assert visible_text(visible_text(text)) == visible_text(text)


def test_line_ends():
    assert visible_text("a\r\nb\rc\u2028d\x85e") == "a\nb\nc\nd\ne"


def test_what_shapes_letters_of_other_scripts_stays():
    persian = "\u0645\u06cc\u200c\u0634\u0648\u062f"
    assert visible_text(persian) == persian


def annotated(tmp_path, report, patient="p"):
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    entry = {"report": report, "image_path": ["a.png"], "patient": patient, "labels": ["caf\u00e9"]}
    content = {split: [entry | {"id": split}] for split in SPLITS}
    (tmp_path / "annotation.json").write_text(json.dumps(content))
    return AnnotatedStudies(tmp_path, resize=8, crop=8).split("train")


@pytest.mark.parametrize("case", ALIKE)
def test_annotations_predictions_and_prepared_folders_read_them_alike(tmp_path, case):
    split = annotated(tmp_path, ALIKE[case], "p\u200b")
    assert (split.reports[0], split.patients[0]) == (PLAIN, "p")
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps({"id": "a", "reference": PLAIN, "generated": ALIKE[case]}) + "\n")
    (record,) = read_predictions(file)
    assert record["generated"] == record["reference"] == PLAIN
    assert make_record("a", ALIKE[case], PLAIN)["reference"] == PLAIN
    seen = as_seen(OriginalStudy("a\u200b", (), report=ALIKE[case], patient="p\u00ad", labels="b|e\u0301"))
    assert (seen.id, seen.report, seen.patient, seen.labels) == ("a\u200b", PLAIN, "p", "b|\u00e9")


def test_headers_of_mimic_after_what_cannot_be_seen():
    report = "\ufeffFINDINGS\u00a0:\u00a0Lungs are\u00a0clear.\r\n\r\nIM\u00adPRESSION: Normal."
    assert _divided(report.encode(), "s1.txt")[:2] == ("Lungs are clear.", "Normal.")


@pytest.mark.parametrize("report", ["nan", "NaN", "\u200b", " \u00a0", float("nan"), None])
def test_a_report_of_nothing_is_told(tmp_path, report):
    with pytest.raises(UserError, match=r'train\[0\].*expected "report" to be a text that is not empty'):
        annotated(tmp_path, report)


@pytest.mark.parametrize("patient", ["nan", float("nan"), None, " "])
def test_a_patient_that_stands_for_none_is_unknown(tmp_path, patient):
    assert annotated(tmp_path, "Clear.", patient).patients[0] is None


def test_released_cleanings_and_match_keys_take_texts_as_they_are():
    """Recorded vocabularies and tables were made by them."""
    assert CLEANINGS["iu_xray"]("a\u2019s \ufb01.") == "a\u2019s \ufb01 ."
    assert match_key("\ufb01") != match_key("fi")
