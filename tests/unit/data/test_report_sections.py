"""Reports of two sections: the marks survive cleaning and tokenizers, and the sections come back out of the text."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.data.report_sections import clean_each, marked, split_sections, with_headings, without_marks
from hardneg_plugin.data.tokenizer import HuggingFaceTokenizer, WordTokenizer
from hardneg_plugin.knowledge.findings import read_statements

FINDINGS, IMPRESSION = "1. Heart size is normal. 2. Small left  effusion.", "No pneumothorax (stable)."
TEXT = "<findings> 1. Heart size is normal. 2. Small left  effusion. <impression> No pneumothorax (stable)."


def test_marks_are_put_before_the_sections_that_there_are():
    assert marked(FINDINGS, IMPRESSION) == TEXT
    assert marked(" ", IMPRESSION) == f"<impression> {IMPRESSION}"
    assert marked(FINDINGS, "") == f"<findings> {FINDINGS}"
    assert marked("", " ") == ""


@pytest.mark.parametrize("name", CLEANINGS)
def test_cleaning_keeps_the_marks_and_cleans_each_section_as_it_would_alone(name):
    clean = CLEANINGS[name]
    assert clean(TEXT) == f"<findings> {clean(FINDINGS)} <impression> {clean(IMPRESSION)}"
    assert clean("Heart <normal>. Lungs: findings clear.") == "heart normal . lungs findings clear .", (
        "no mark, as released"
    )


def test_a_word_tokenizer_writes_the_marks():
    tokenizer = WordTokenizer.from_reports([TEXT], min_count=1)
    assert {"<findings>", "<impression>"} <= set(tokenizer.vocabulary)
    decoded = tokenizer.decode(tokenizer.encode(TEXT))
    assert decoded == "<findings> heart size is normal . small left effusion . <impression> no pneumothorax stable ."
    assert split_sections(decoded) == {
        "findings": "heart size is normal . small left effusion .",
        "impression": "no pneumothorax stable .",
    }


def test_a_subword_tokenizer_that_takes_marks_apart_gives_them_back():
    words = ["<", ">", "findings", "impression", "clear", "normal", "?"]
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    tokenizer = HuggingFaceTokenizer(backend)
    ids = tokenizer.encode("<findings> clear <impression> normal")
    assert len(ids) == 2 + 8, "each mark is three tokens here"
    assert tokenizer.decode(ids) == "<findings> clear <impression> normal"


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("<impression> normal .", {"findings": "", "impression": "normal ."}),
        ("<findings> <impression> normal .", {"findings": "", "impression": "normal ."}),
        ("clear . <impression> normal .", {"findings": "", "impression": "normal ."}),
        ("<findings> a . <findings> b .", {"findings": "a .", "impression": ""}),
        ("Findings: Clear.\nImpression:Normal.", {"findings": "Clear.", "impression": "Normal."}),
        ("FINDINGS:Clear.IMPRESSION: Normal.", {"findings": "Clear.", "impression": "Normal."}),
        ("Findings: None Impression: Large effusion.", {"findings": "", "impression": "Large effusion."}),
        ("Findings: nan Impression: None.", {"findings": "", "impression": ""}),
        ("Impression: no change", {"findings": "", "impression": "no change"}),
        ("Heart normal. Impression: no change", None),
        ("no findings : clear", None),
        ("", None),
    ],
)
def test_sections_come_out_of_marks_or_headings(text, sections):
    assert split_sections(text) == sections


def test_texts_as_people_and_scores_read_them():
    assert with_headings(marked("Clear.", "Normal.")) == "Findings: Clear. Impression: Normal."
    assert with_headings("clear .") == "Findings: clear ."
    assert with_headings("<impression> normal .") == "Impression: normal ."
    assert without_marks("<findings> clear . <impression> normal .") == "clear . normal ."
    assert without_marks("two  blanks") == "two  blanks"
    assert clean_each("a <impression> b", str.upper) == "A <impression> B"


def test_marks_change_nothing_of_what_a_report_states():
    cleaned = CLEANINGS["iu_xray"](TEXT)
    assert read_statements(cleaned) == read_statements(without_marks(cleaned))
