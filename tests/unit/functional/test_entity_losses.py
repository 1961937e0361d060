"""Mismatches, entities and statements against plain loops over the formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hardneg_plugin.functional.entity_losses import FLOOR, draw_negatives, entity_loss, statement_loss

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def facts(studies, prompts, seed=0):
    return torch.randint(-1, 2, (studies, prompts), generator=torch.Generator().manual_seed(seed))


def test_mismatches_are_drawn_by_their_similarity_and_never_match():
    logits = torch.tensor([[2.0, 1.0, -20.0, 0.0]]).expand(40_000, -1)
    is_match = torch.tensor([[True, False, False, False]]).expand_as(logits)
    noise = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(0))
    index, has_one = draw_negatives(logits, is_match, noise)
    assert has_one.all()
    weights = [math.exp(v) / sum(map(math.exp, (2.0, 1.0, -20.0, 0.0))) + FLOOR for v in (2.0, 1.0, -20.0, 0.0)]
    share = torch.bincount(index, minlength=4) / len(index)
    expected = [0.0, *(w / sum(weights[1:]) for w in weights[1:])]
    assert share.tolist() == pytest.approx(expected, abs=0.01)
    assert 0 < share[2] < 0.002  # the floor


def test_a_study_that_matches_all_others_has_no_mismatch():
    noise = torch.ones(2, 3)
    index, has_one = draw_negatives(torch.zeros(2, 3), torch.tensor([[True, True, True], [True, True, False]]), noise)
    assert has_one.tolist() == [False, True]
    assert index[1] == 2


def test_entity_loss_is_the_mean_cross_entropy_over_what_is_known():
    logits, known = draw(4, 5), facts(4, 5)
    known[2] = -1
    found = entity_loss(logits, known)
    for study in range(4):
        terms = []
        for logit, fact in zip(logits[study].tolist(), known[study].tolist(), strict=True):
            if fact >= 0:
                probability = 1 / (1 + math.exp(-logit))
                terms.append(-math.log(probability if fact else 1 - probability))
        assert found[study].item() == pytest.approx(sum(terms) / max(1, len(terms)))
    assert found[2] == 0


def swaps_of(entities):
    return torch.tensor([[a == b and i != j for j, b in enumerate(entities)] for i, a in enumerate(entities)])


def test_statement_loss_against_loops():
    studies, prompts, scale = 6, 5, 7.0
    z, t = F.normalize(draw(studies, 3), dim=-1), F.normalize(draw(2, prompts, 3, seed=1), dim=-1)
    known, is_swap = facts(studies, prompts, seed=2), swaps_of([0, 0, 0, 1, 1])
    known[0] = torch.tensor([1, 1, 0, -1, -1])  # two places at once, one false, nothing absent among the others
    known[1] = 0
    known[2] = -1
    known[3] = 1
    found = statement_loss(z, t, known, is_swap, logit_scale=scale)
    for i in range(studies):
        sides = {1: [], 0: []}
        for q in range(prompts):
            absent, present = (math.exp(scale * (z[i] @ t[side, q]).item()) for side in (0, 1))
            if known[i, q] == 1:
                swapped = [
                    math.exp(scale * (z[i] @ t[1, p]).item())
                    for p in range(prompts)
                    if is_swap[q, p] and known[i, p] == 0
                ]
                sides[1].append(-math.log(present / (present + absent + sum(swapped))))
            elif known[i, q] == 0:
                sides[0].append(-math.log(absent / (absent + present)))
        means = [sum(side) / len(side) for side in sides.values() if side]
        assert found[i].item() == pytest.approx(sum(means) / len(means) if means else 0.0)


@given(st.integers(0, 2**32 - 1))
def test_what_is_unknown_changes_nothing_and_gradients_are_finite(seed):
    z = F.normalize(draw(3, 4, seed=seed), dim=-1).requires_grad_()
    t, known = F.normalize(draw(2, 4, 4, seed=seed + 1), dim=-1), facts(3, 4, seed=seed)
    is_swap = swaps_of([0, 0, 1, 1])
    before = statement_loss(z, t, known, is_swap, logit_scale=30.0)
    before.sum().backward()
    assert z.grad.isfinite().all()
    unknown = (known == -1).all(0)
    other = torch.where(unknown[None, :, None], -t, t)
    torch.testing.assert_close(statement_loss(z, other, known, is_swap, logit_scale=30.0), before)
