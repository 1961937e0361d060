import json
import pickle
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.data.tokenizer import HuggingFaceTokenizer, WordTokenizer, tokenizer_from_state
from hardneg_plugin.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "tests" / "reference"

RELEASED = json.loads((REFERENCE / "tokenizer_iu_xray.json").read_text())
REPORTS = ["Heart size is normal. No effusion.", "Heart is large. No effusion.", "Heart size is normal."]


@pytest.mark.parametrize("recorded", ["clean_iu_awkward.json", "clean_mimic.json"])
def test_cleaning_equals_the_released_one(recorded):
    recorded = json.loads((REFERENCE / recorded).read_text())
    assert recorded["cases"]
    for case in recorded["cases"]:
        assert WordTokenizer(("<unk>", "a"), recorded["dataset"]).clean(case["report"]) == case["clean"], case


@pytest.mark.parametrize(
    ("report", "clean"),
    [
        ("a. 2. 3. b.", "a . b ."),  # removing the 2 puts the 3 behind a full stop
        ("a.............. b", "a . b ."),
        ("6. a 6. b", "6 . a 6 . b ."),
        ("limits>] <BR> 5 @ 3=3", "limits br 5  33 ."),
    ],
)
def test_cleaning_of_what_the_recorded_cases_leave_open(report, clean):
    assert CLEANINGS["iu_xray"](report) == clean


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB1234 .\n_-\"'/\\[]{}<>é\t"), max_size=40))
@pytest.mark.parametrize("cleaning", sorted(CLEANINGS))
def test_cleaning_keeps_no_mark_and_cleans_its_own_result_to_the_same_words(cleaning, text):
    clean = CLEANINGS[cleaning](text)
    words = clean.split()
    assert words[-1] == "."
    assert clean == clean.lower()
    assert not set(clean) & set("\"'/\\[]{}<>_")
    assert all(word == "." or "." not in word for word in words)
    if not any(character in text for character in "1234"):  # numbers can come to stand where list numbers do
        assert [word for word in CLEANINGS[cleaning](clean).split() if word != "."] == [w for w in words if w != "."]


def test_released_ids_are_met_and_decode_to_the_cleaned_words():
    tokenizer = WordTokenizer(tuple(RELEASED["vocabulary"]), RELEASED["dataset"])
    assert len(RELEASED["cases"]) == 24
    for case in RELEASED["cases"]:
        assert tokenizer.encode(case["clean"]) == case["ids"], case["id"]
        words = [word if word in RELEASED["vocabulary"] else "<unk>" for word in case["clean"].split()]
        assert tokenizer.decode(case["ids"]).split() == words, case["id"]
        assert tokenizer.decode(case["ids"][1:]) == tokenizer.decode(case["ids"]), case["id"]


def test_vocabulary_of_the_released_training_split_and_its_reports(real_data):
    splits = json.loads((real_data("iu_xray_reports") / "annotation.json").read_text())
    tokenizer = WordTokenizer.from_reports([entry["report"] for entry in splits["train"]])
    assert list(tokenizer.vocabulary) == RELEASED["vocabulary"]
    reports = {entry["id"]: entry["report"] for split in splits.values() for entry in split}
    for case in RELEASED["cases"]:
        assert tokenizer.clean(reports[case["id"]]) == case["clean"]
        assert tokenizer.encode(reports[case["id"]]) == case["ids"]


def test_vocabulary_counts_words_as_a_plain_loop_does():
    counts = Counter()
    for report in REPORTS:
        for word in report.lower().replace(".", " . ").split():
            counts[word] += 1
    for min_count in (1, 2, 3):
        expected = sorted([word for word in counts if counts[word] >= min_count] + ["<unk>"])
        tokenizer = WordTokenizer.from_reports(REPORTS, min_count=min_count)
        assert list(tokenizer.vocabulary) == expected
        assert tokenizer.vocab_size == len(expected)


def test_decode_stops_at_the_end_and_refuses_ids_outside_the_vocabulary():
    tokenizer = WordTokenizer(("<unk>", "a", "b"))
    assert tokenizer.decode([2, 3, 0, 2]) == "a b"
    assert tokenizer.decode([0, 2, 0, 2]) == "a"
    assert tokenizer.decode([2, 3]) == "a b"
    assert tokenizer.decode([0, 0]) == tokenizer.decode([]) == ""
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=rf"\[0, 3\], but got {wrong}"):
            tokenizer.decode([wrong])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(WordTokenizer.from_reports, REPORTS, cleaning="iu"), "iu_xray.*mimic_cxr.*'iu'"),
        (partial(WordTokenizer, ("<unk>", "a"), "iu"), "iu_xray.*mimic_cxr.*'iu'"),
        (partial(WordTokenizer.from_reports, REPORTS, min_count=0), "`min_count` >= 1, but got 0"),
        (partial(WordTokenizer.from_reports, REPORTS, min_count=99), "at least `min_count`=99 times, but 3 reports"),
        (partial(WordTokenizer.from_reports, []), "0 reports"),
        (partial(WordTokenizer, ()), "vocabulary"),
        (partial(WordTokenizer, ("a", "b")), "<unk>"),
        (partial(WordTokenizer, ("<unk>", "b", "b")), "distinct words, but got repeats"),
        (partial(tokenizer_from_state, {"kind": "letters"}), "'letters'"),
        (partial(tokenizer_from_state, {}), "None"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT-like tokenizer of a few words, saved as a hub name would be cached."""
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    special = ["[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(REPORTS * 5, trainers.WordPieceTrainer(vocab_size=80, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    backend.enable_truncation(4)  # what a saved tokenizer may bring along, and must not act
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", additional_special_tokens=["<new>"]
    ).save_pretrained(path)
    return path


def test_hugging_face_ids_are_moved_up_by_one_and_come_back(folder):
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(folder)
    tokenizer = HuggingFaceTokenizer.from_reports((), str(folder))
    assert tokenizer.vocab_size == len(oracle)
    for report in REPORTS:
        ids = tokenizer.encode(report)
        assert ids == [0, *(i + 1 for i in oracle(report, add_special_tokens=False, truncation=False)["input_ids"]), 0]
        assert tokenizer.decode(ids) == tokenizer.decode(ids[1:]) == report.lower().replace(".", " .")
    assert tokenizer.clean("  Heart\n size\t is ") == "Heart size is"
    assert tokenizer.decode([0, 0]) == ""


@pytest.mark.parametrize("name", ["{tmp_path}/nowhere", "{tmp_path}", "no-such-tokenizer"])
def test_hugging_face_needs_a_tokenizer_that_is_there(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = name.format(tmp_path=tmp_path)
    with pytest.raises(UserError, match="Give a folder") as caught:
        HuggingFaceTokenizer.from_reports((), name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["words", "huggingface"])
def test_state_is_plain_and_gives_back_an_equal_tokenizer(kind, folder):
    make = {
        "words": partial(WordTokenizer.from_reports, min_count=1, cleaning="mimic_cxr"),
        "huggingface": partial(HuggingFaceTokenizer.from_reports, name_or_path=str(folder)),
    }[kind]
    tokenizer = make(REPORTS)
    back = tokenizer_from_state(json.loads(json.dumps(tokenizer.state())))
    assert back == tokenizer == pickle.loads(pickle.dumps(tokenizer))
    assert back.vocab_size == tokenizer.vocab_size
    for report in [*REPORTS, "unheard of"]:
        assert back.encode(report) == tokenizer.encode(report)


def test_different_tokenizers_are_not_equal(folder):
    words = WordTokenizer(("<unk>", "a"))
    assert words != WordTokenizer(("<unk>", "b"))
    assert words != WordTokenizer(("<unk>", "a"), "mimic_cxr")
    assert words != HuggingFaceTokenizer.from_reports((), str(folder))


CHINESE = [
    "\u53cc\u80ba\u7eb9\u7406\u6e05\u6670\uff0c\u672a\u89c1\u5b9e\u53d8\u5f71\u3002\u5fc3\u5f71\u6b63\u5e38\u3002"
] * 3


def test_reports_in_a_script_without_spaces_need_another_tokenizer():
    with pytest.raises(UserError, match=r"Expected spaces between the words.*tokenizer=huggingface"):
        WordTokenizer.from_reports(CHINESE)
    spaced = [" ".join(report) for report in CHINESE]
    assert len(WordTokenizer.from_reports(spaced).vocabulary) > 10
    assert WordTokenizer.from_reports(["\u6d88\u6c14: no effusion in either lung, normal heart."] * 3)
    assert WordTokenizer.from_reports(["Pneumonoultramicroscopicsilicovolcanoconiosis."] * 3)
