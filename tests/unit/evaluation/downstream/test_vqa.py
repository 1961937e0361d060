import math

import pytest
import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.head_training import HeadTraining, Standardise
from hardneg_plugin.evaluation.downstream.vqa import (
    AnswerHead,
    VQABatch,
    answer_indices,
    blind_answers,
    closed_answers,
    predict_answers,
    train_vqa,
)

HOW = HeadTraining(epochs=25, batch_size=16, lr=0.005)


def asked(count, seed, patches=5):
    """One of two things lies at one of the patches of each study; the question names the thing, the answer is its sign."""
    generator = torch.Generator().manual_seed(seed)
    features = 0.1 * torch.randn(count, patches, 6, generator=generator)
    signs = torch.randint(2, (count, 2), generator=generator)
    places = torch.stack([torch.randperm(patches - 1, generator=generator)[:2] for _ in range(count)])
    for row in range(count):
        for thing in range(2):
            features[row, places[row, thing], 2 * thing] = 1.0  # which thing
            features[row, places[row, thing], 2 * thing + 1] = 2.0 * signs[row, thing] - 1  # its sign
    mask = torch.ones(count, patches, dtype=torch.bool)
    mask[::2, -1] = False  # every other study is short of one patch
    study = torch.arange(count).repeat(2)
    thing = torch.arange(2).repeat_interleave(count)
    order = torch.randperm(2 * count, generator=generator)
    study, thing = study[order], thing[order]
    return VQABatch(50 * features + 10, mask, torch.eye(2)[thing], study, signs[study, thing])


@pytest.fixture(scope="module")
def splits():
    return asked(100, 0), asked(40, 1)


@pytest.fixture(scope="module")
def trained(splits):
    return train_vqa(*splits, 2, training=HOW, width=16)


def test_training_answers_what_only_the_patches_tell(trained, splits):
    test = asked(60, 2)
    assert (predict_answers(trained.head, test, batch_size=7) == test.answers).float().mean() > 0.9
    right = (predict_answers(trained.head, splits[1]) == splits[1].answers).float().mean()
    assert float(right) == pytest.approx(max(trained.scores)) == trained.scores[trained.epoch - 1]


def test_without_patches_it_is_the_question_alone(splits):
    train, val = (split._replace(patch_mask=torch.zeros_like(split.patch_mask)) for split in splits)
    blind = train_vqa(train, val, 2, training=HOW, width=16)
    assert max(blind.scores) < 0.7
    logits = blind.head(val.patches[:3], val.patch_mask[:3], val.questions[:1].expand(3, -1))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[1:], logits[:1].expand(2, -1))


@torch.no_grad()
def test_the_head_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    patches, questions = torch.randn(3, 4, 6, generator=generator), torch.randn(3, 5, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    head = AnswerHead(Standardise(2 * patches.flatten(0, 1) + 1), Standardise(questions - 3), 7, width=8)
    logits = head(patches, mask, questions)
    for row in range(3):
        question = (questions[row] - head.of_questions.mean) / head.of_questions.std
        query = head.query.weight @ question + head.query.bias
        kept = [
            head.value.weight @ ((patch - head.of_patches.mean) / head.of_patches.std)
            for patch in patches[row][mask[row]]
        ]
        exponents = [math.exp(float(query @ value) / math.sqrt(8)) for value in kept]
        seen = sum(exponent * value for exponent, value in zip(exponents, kept, strict=True)) / sum(exponents)
        torch.testing.assert_close(logits[row], head.mlp(torch.cat([seen, question])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e4, math.nan, math.inf])
def test_padding_changes_nothing(trained, splits, value):
    val = splits[1]
    padded = val._replace(
        patches=torch.cat(
            [val.patches.masked_fill(~val.patch_mask[:, :, None], value), torch.full((40, 3, 6), value)], dim=1
        ),
        patch_mask=torch.cat([val.patch_mask, torch.zeros(40, 3, dtype=torch.bool)], dim=1),
    )
    rows = val.study
    logits, same = (trained.head(some.patches[rows], some.patch_mask[rows], some.questions) for some in (val, padded))
    torch.testing.assert_close(logits, same)
    # nor does it in training
    short = HeadTraining(epochs=1)
    one, other = (train_vqa(some, some, 2, training=short, width=8).head for some in (val, padded))
    torch.testing.assert_close(one.mlp[0].weight, other.mlp[0].weight, atol=1e-5, rtol=1e-4)


def test_the_order_of_patches_changes_nothing(trained, splits):
    val = splits[1]
    turned = val._replace(patches=val.patches.flip(1), patch_mask=val.patch_mask.flip(1))
    logits, same = (trained.head(some.patches, some.patch_mask, some.questions[:40]) for some in (val, turned))
    torch.testing.assert_close(logits, same)


def test_training_is_the_seeds_and_leaves_the_global_random_state_alone(splits):
    how = HeadTraining(epochs=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train_vqa(*splits, 2, training=how, width=8).head
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(train_vqa(*splits, 2, training=how, width=8).head.value.weight, one.value.weight)
    assert not torch.equal(
        train_vqa(*splits, 2, training=HeadTraining(epochs=2, seed=1), width=8).head.value.weight, one.value.weight
    )


def test_features_computed_in_inference_mode_will_do(splits):
    with torch.inference_mode():
        train = splits[0]._replace(patches=splits[0].patches.bfloat16(), questions=splits[0].questions * 1)
    assert len(train_vqa(train, splits[1], 2, training=HeadTraining(epochs=1), width=8).scores) == 1


def test_an_answer_that_training_never_gave_is_wrong(splits, trained):
    train, val = splits
    unknown = val._replace(answers=torch.full_like(val.answers, -1))
    assert train_vqa(train, unknown, 2, training=HeadTraining(epochs=1), width=8).scores == (0.0,)
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        train_vqa(unknown, val, 2, training=HOW)


def test_closed_answers_and_their_places():
    known = closed_answers(["yes", "no", "left", "yes"])
    assert known == ("left", "no", "yes")
    assert answer_indices(["yes", "right", "left"], known).tolist() == [2, -1, 0]


def test_the_blind_baseline_is_the_most_frequent_training_answer_of_a_group():
    train_answers = torch.tensor([3, 3, 1, 2, 2, 4, 4])
    train_kinds = ["size", "size", "size", "side", "side", "side", "side"]
    kinds = ["side", "size", "place", "size"]
    blind = blind_answers(train_answers, train_kinds, kinds)
    assert blind.tolist() == [2, 3, -1, 3]  # of 2 and 4, equally frequent, the smaller


def test_what_does_not_fit_is_refused(splits):
    train, val = splits
    with pytest.raises(ValueError, match="patch_mask"):
        train_vqa(train, val._replace(patch_mask=val.patch_mask[:, 1:]), 2, training=HOW)
    with pytest.raises(ValueError, match=r"torch\.bool"):
        train_vqa(train._replace(patch_mask=train.patch_mask.long()), val, 2, training=HOW)
    with pytest.raises(ValueError, match=r"`study` in \[0, 40\)"):
        train_vqa(train, val._replace(study=val.study + 1), 2, training=HOW)
    with pytest.raises(ValueError, match=r"`answers` \(M,\)"):
        train_vqa(train._replace(answers=train.answers[1:]), val, 2, training=HOW)
    none = train._replace(questions=train.questions[:0], study=train.study[:0], answers=train.answers[:0])
    with pytest.raises(UserError, match="at least one study"):
        train_vqa(none, val, 2, training=HOW)
