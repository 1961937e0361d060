import pytest
import torch

from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import match_key
from hardneg_plugin.knowledge import ChestXray

TOKENIZER = WordTokenizer((".", "<unk>", "clear", "heart", "lungs", "normal"))


def sample(name, report, views=1, size=(6, 6), patient=None, labels=None):
    images = torch.randint(1, 256, (views, 1, *size), dtype=torch.uint8)
    return {"id": name, "images": images, "report": report, "patient": patient, "labels": labels}


@pytest.fixture
def samples():
    return [
        sample("a", "Lungs\nclear. Heart  normal.", views=1, patient="p", labels="x|y"),
        sample("b", "Heart enlarged.", views=3, patient="p", labels=""),
        sample("c", "lungs CLEAR. heart normal", views=2),
    ]


def test_batch_against_plain_loops(samples):
    batch = StudyCollator(TOKENIZER, max_length=60)(samples)
    assert batch["ids"] == ["a", "b", "c"]
    assert batch["images"].shape == (3, 3, 1, 6, 6)
    assert batch["images"].dtype == torch.uint8
    assert batch["view_mask"].dtype == batch["token_mask"].dtype == torch.bool
    for row, item in enumerate(samples):
        views = len(item["images"])
        assert batch["view_mask"][row].tolist() == [view < views for view in range(3)]
        assert torch.equal(batch["images"][row, :views], item["images"])
        assert not batch["images"][row, views:].any()
    # clear heart lungs normal are 3 4 5 6, "." is 1 and <unk> 2
    assert batch["tokens"].tolist() == [[0, 5, 3, 1, 4, 6, 1, 0], [0, 4, 2, 1, 0, 0, 0, 0], [0, 5, 3, 1, 4, 6, 1, 0]]
    assert batch["token_mask"].sum(1).tolist() == [8, 5, 8]
    assert batch["token_mask"][1].tolist() == [True] * 5 + [False] * 3
    assert batch["tokens"].dtype == batch["match_keys"].dtype == torch.int64


def test_references_are_cleaned_in_full_and_cut_as_decoded(samples):
    batch = StudyCollator(TOKENIZER, max_length=4)(samples)
    assert batch["references"] == ["lungs clear . heart normal .", "heart enlarged .", "lungs clear . heart normal ."]
    assert batch["cut_references"] == ["lungs clear .", "heart <unk> .", "lungs clear ."]


def test_a_cut_report_has_no_end_and_one_that_just_fits_has(samples):
    cut = StudyCollator(TOKENIZER, max_length=7)(samples[:1])
    assert cut["tokens"].tolist() == [[0, 5, 3, 1, 4, 6, 1]]
    assert cut["token_mask"].all()
    fits = StudyCollator(TOKENIZER, max_length=8)(samples[:1])
    assert fits["tokens"].tolist() == [[0, 5, 3, 1, 4, 6, 1, 0]]


def test_match_keys_are_of_study_patient_cleaned_text_and_labels(samples):
    keys = StudyCollator(TOKENIZER, max_length=3)(samples)["match_keys"]
    text = "lungs clear . heart normal ."
    assert keys.tolist() == [
        [match_key("a"), match_key("p"), match_key(text), match_key("x|y")],
        [match_key("b"), match_key("p"), match_key("heart enlarged ."), match_key("")],
        [match_key("c"), -1, match_key(text), -1],
    ]


def test_mined_studies_are_a_batch_of_their_own_in_the_order_of_their_studies(samples):
    mined = [[sample(f"{of}{j}", f"Heart {j}.", views=j + 1, size=(6, 6)) for j in range(2)] for of in "abc"]
    collate = StudyCollator(TOKENIZER, max_length=60)
    with_mined = collate([{**own, "negatives": own_mined} for own, own_mined in zip(samples, mined, strict=True)])
    negatives = with_mined.pop("negatives")
    flat = [*mined[0], *mined[1], *mined[2]]
    assert negatives["ids"] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    for batch, alone in ((with_mined, collate(samples)), (negatives, collate(flat))):
        assert batch.keys() == alone.keys()
        for key, value in alone.items():
            got = dict(batch)[key]
            assert torch.equal(got, value) if isinstance(value, torch.Tensor) else got == value


def test_images_of_two_sizes_are_refused_by_study(samples):
    odd = sample("odd", "Lungs clear.", size=(6, 8))
    with pytest.raises(ValueError, match=r"\(1, 1, 6, 6\) for study 'a' and \(1, 1, 6, 8\) for study 'odd'"):
        StudyCollator(TOKENIZER, 60)([*samples, odd])


def test_max_length_has_room_for_a_word():
    with pytest.raises(UserError, match=r"`max_length` >= 2 .*but got 1"):
        StudyCollator(TOKENIZER, 1)


def test_facts_are_what_the_reports_state(samples):
    knowledge = ChestXray()
    batch = StudyCollator(TOKENIZER, 60, knowledge)(samples)
    assert batch["facts"].tolist() == [knowledge.facts(item["report"]) for item in samples]
    assert batch["facts"][1].sum() > 0  # "Heart enlarged."
    assert "facts" not in StudyCollator(TOKENIZER, 60)(samples)


def test_boxes_of_missing_views_are_nan(samples):
    for item in samples:
        item["boxes"] = torch.rand(len(item["images"]), 2, 4)
    boxes = StudyCollator(TOKENIZER, 60)(samples)["boxes"]
    assert boxes.shape == (3, 3, 2, 4)
    for row, item in enumerate(samples):
        views = len(item["images"])
        assert torch.equal(boxes[row, :views], item["boxes"])
        assert boxes[row, views:].isnan().all()
