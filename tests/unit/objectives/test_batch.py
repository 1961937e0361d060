"""The embeddings of one step: means over usable studies, hard negatives of two sources, and a generator for each step and rank."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.distributed import Shards
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import EmbeddedBatch
from hardneg_plugin.objectives.batch import HardNegatives
from hardneg_plugin.objectives.schedule import TrainingProgress

unit = torch.eye(3)


def batch_of(studies=3, usable=None, rank=0, sizes=None, step=0):
    sizes = sizes or (studies,)
    total = sum(sizes)
    random = torch.Generator().manual_seed(0)
    images, reports = (F.normalize(torch.randn(total, 4, generator=random), dim=-1) for _ in range(2))
    all_usable = None if usable is None else torch.tensor(usable)
    shards, progress = Shards(rank, sizes), TrainingProgress(step=step)
    return EmbeddedBatch(images, reports, MatchKeys.of(total), shards, progress, all_usable=all_usable)


@pytest.mark.parametrize(
    ("usable", "expected"),
    [([True] * 3, 2.0), ([True, False, True], 1.5), ([False, True, False], 3.0), ([False] * 3, 0.0)],
)
def test_means_and_loss_are_over_usable_studies(usable, expected):
    batch, values = batch_of(usable=usable), torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    spoilt = torch.where(torch.tensor(usable), values, torch.nan)
    assert batch.local_mean(spoilt).item() == expected
    assert not batch.local_mean(values).requires_grad
    assert batch.loss(spoilt).item() == pytest.approx(expected)
    assert batch.loss(values).requires_grad


def test_the_mean_of_the_ranks_losses_is_the_mean_over_usable_studies_of_all():
    sizes, usable = (2, 3), [True, True, False, True, False]
    values = torch.tensor([1.0, 2.0, 100.0, 6.0, 100.0])
    losses = [batch_of(sizes=sizes, rank=rank, usable=usable).loss(values.split(sizes)[rank]) for rank in (0, 1)]
    assert sum(losses).item() / 2 == pytest.approx((1 + 2 + 6) / 3)


def test_negatives_are_filled_up_with_those_of_another_source():
    valid = torch.tensor([[True, False]])
    first = HardNegatives(unit[None, :2], -unit[None, :2], valid, torch.tensor([[4, 5]]))
    other = HardNegatives(unit[None, 1:], -unit[None, 1:], torch.tensor([[True, False]]), torch.tensor([[6, 7]]))
    both = first.filled_up(other)
    assert torch.equal(both.reports, unit[None, [0, 2]])
    assert torch.equal(both.images, -unit[None, [0, 2]])
    assert both.valid.tolist() == [[True, False]]
    assert both.places.tolist() == [[4, 7]]
    assert HardNegatives(unit[None, :2], None, ~valid).filled_up(first).valid.tolist() == [[True, True]]


@pytest.mark.parametrize("whose", ["first", "second"])
def test_images_are_unknown_where_one_source_does_not_know_them(whose):
    valid, reports = torch.tensor([[True, False]]), unit[None, :2]
    known, unknown = HardNegatives(reports, reports, valid), HardNegatives(reports, None, valid)
    both = unknown.filled_up(known) if whose == "first" else known.filled_up(unknown)
    assert both.images is None
    assert both.places.tolist() == [[-1, -1]]


def test_places_of_one_source_are_kept_where_the_other_has_none():
    valid = torch.tensor([[True, False]])
    placed = HardNegatives(unit[None, :2], None, valid, torch.tensor([[4, 5]]))
    elsewhere = HardNegatives(unit[None, :2], None, ~valid)
    assert placed.filled_up(elsewhere).places.tolist() == [[4, -1]]
    assert elsewhere.filled_up(placed).places.tolist() == [[4, -1]]


def test_every_seed_step_and_rank_draws_other_numbers():
    seeds = set()
    for seed in (0, 1, 2, 3, 10_007, 20_014, 1_000_003):
        torch.manual_seed(seed)
        seeds |= {
            batch_of(sizes=(1,) * 9, rank=rank, step=step).generator().initial_seed()
            for step in range(8)
            for rank in range(9)
        }
    assert len(seeds) == 7 * 8 * 9


def test_the_greatest_seed_draws_too():
    torch.manual_seed(2**64 - 1)
    assert torch.rand(1, generator=batch_of(step=10**9).generator()) >= 0


def test_usable_and_matches_are_those_of_the_local_studies():
    batch = batch_of(sizes=(2, 3), rank=1, usable=[True, False, True, True, False])
    assert batch.usable.tolist() == [True, True, False]
    expected = [[j in (1, 4) or i == j for j in range(5)] for i in (2, 3)] + [[True] * 5]
    assert batch.is_match.tolist() == expected
