"""Auxiliary negatives that persist: used as they are, advanced afterwards, never past the guard."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import Ascent, harden_ascent
from hardneg_plugin.functional.hardening_strategy import StepStudies
from hardneg_plugin.functional.match_keys import MatchKeys, match_key
from hardneg_plugin.objectives import Alternating


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def visit(strategy, hardness, numbers, images, reports, negatives, valid=None):
    mined = negatives[numbers]
    valid = torch.ones(mined.shape[:2], dtype=torch.bool) if valid is None else valid
    keys = MatchKeys.of(len(numbers), study_ids=[str(n) for n in numbers])
    studies = StepStudies(keys, valid, Shards(0, (len(numbers),)))
    return strategy(images[numbers], reports[numbers], mined, hardness, studies)


@pytest.mark.parametrize("k", [1, 3])
def test_each_visit_uses_what_the_last_left_and_ascends_from_there(k):
    """Against a dictionary of study to negatives; images, reports and mined negatives drift between the visits."""
    strategy, owned, turned_back = Alternating(step_size=0.05, margin=0.05), {}, 0
    for time in range(30):
        images, reports, negatives = unit(9, 8, seed=time), unit(9, 8, seed=50), unit(9, k, 8, seed=70 + time)
        images = F.normalize(images + 0.5 * reports, dim=-1)
        numbers = [(time + j) % 9 for j in range(4)]
        used = visit(strategy, 0.6, numbers, images, reports, negatives)
        for i, n in enumerate(numbers):
            z, u = images[n], reports[n]
            expected = owned.get(n, negatives[n]).clone()
            guard = float(z @ u) - 0.05
            for j in range(k):
                if n in owned and z @ expected[j] > guard:  # drift carried it past the guard: back within their plane
                    away = F.normalize(expected[j] - (z @ expected[j]) * z, dim=0)
                    expected[j] = guard * z + math.sqrt(1 - guard**2) * away
                    turned_back += 1
            torch.testing.assert_close(used[i], expected)
            if n in owned or (negatives[n] @ z <= guard).all():
                owned[n] = harden_ascent(
                    z[None], u[None], expected[None], hardness=0.6, margin=0.05, steps=1, step_size=0.05
                )[0]
    assert len(strategy.bank) == len(owned) >= 6
    assert turned_back > 2


def test_negatives_get_harder_from_visit_to_visit_up_to_the_guard():
    reports, negatives = unit(20, 8, seed=1), unit(20, 1, 8, seed=2)
    images = F.normalize(reports + 0.3 * unit(20, 8, seed=3), dim=-1)
    strategy, alignments = Alternating(step_size=0.1, margin=0.1), []
    for _ in range(60):
        used = visit(strategy, 0.9, list(range(20)), images, reports, negatives)
        torch.testing.assert_close(used.norm(dim=-1), torch.ones(20, 1))
        alignments.append((images * used[:, 0]).sum(-1))
    guard = (images * reports).sum(-1) - 0.1
    assert torch.equal(alignments[0], (images * negatives[:, 0]).sum(-1))
    for before, after in itertools.pairwise(alignments):
        assert (after >= before - 1e-6).all()
    within = alignments[0] <= guard
    assert within.sum() > 10
    torch.testing.assert_close(alignments[-1][within], guard[within], rtol=0, atol=1e-3)


def test_nothing_is_kept_without_hardness_nor_of_a_negative_that_was_not_found():
    images, reports, negatives = unit(4, 8, seed=1), unit(4, 8, seed=2), unit(4, 1, 8, seed=3)
    strategy = Alternating()
    visit(strategy, 0.0, [0, 1], images, reports, negatives)
    assert len(strategy.bank) == 0
    visit(strategy, 0.5, [0, 1], images, reports, negatives, valid=torch.tensor([[True], [False]]))
    assert strategy.bank.slots_of(torch.tensor([match_key("0"), match_key("1")])).tolist() == [0, -1]


@pytest.mark.parametrize("k", [1, 2])
def test_a_negative_that_was_not_found_is_not_kept_though_it_is_within_the_guard(k):
    """The image is its report, and the negatives are far away from it: nothing but `valid` keeps them out."""
    images = reports = unit(2, 8, seed=2)
    negatives = -images[:, None] + 0.1 * unit(2, k, 8, seed=3)
    strategy, valid = Alternating(), torch.ones(2, k, dtype=torch.bool)
    valid[1, -1] = False
    visit(strategy, 0.5, [0, 1], images, reports, F.normalize(negatives, dim=-1), valid=valid)
    assert strategy.bank.slots_of(torch.tensor([match_key("0"), match_key("1")])).tolist() == [0, -1]


def test_the_result_is_detached():
    images, reports, negatives = unit(4, 8, seed=1), unit(4, 8, seed=2), unit(4, 1, 8, seed=3).requires_grad_()
    assert not visit(Alternating(), 0.5, [0, 1], images, reports, negatives).requires_grad


def test_evaluation_sees_one_ascent_and_leaves_the_bank_alone():
    images, reports, negatives = unit(4, 8, seed=1), unit(4, 8, seed=2), unit(4, 1, 8, seed=3)
    strategy = Alternating(step_size=0.2, steps=2, margin=0.1)
    visit(strategy, 0.5, [0, 1], images, reports, negatives)
    owned = len(strategy.bank)
    assert owned
    stateless = strategy.for_evaluation()
    assert stateless == Ascent(steps=2, step_size=0.2, margin=0.1)
    expected = harden_ascent(images, reports, negatives, hardness=0.5, margin=0.1, steps=2, step_size=0.2)
    assert torch.equal(stateless(images, reports, negatives, 0.5), expected)
    assert len(strategy.bank) == owned


def test_studies_must_be_known():
    unknown = StepStudies(MatchKeys.of(4), torch.ones(4, 1, dtype=torch.bool), Shards(0, (4,)))
    with pytest.raises(UserError, match=r"hardening=alternating needs to know the studies.*study_ids"):
        Alternating()(unit(4, 8), unit(4, 8), unit(4, 1, 8), 0.5, unknown)
    with pytest.raises(ValueError, match="for_evaluation"):
        Alternating()(unit(4, 8), unit(4, 8), unit(4, 1, 8), 0.5)
