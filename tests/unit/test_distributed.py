"""What several ranks exchange, against the same on one process with the rows of all."""

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parent))
from forked_ranks import on_ranks

from hardneg_plugin import distributed
from hardneg_plugin.distributed import (
    Shards,
    average_gradients,
    from_first_rank,
    is_shard,
    mean_over_ranks,
    share_of_ranks,
    warn_on_first_rank,
    world_size,
)

CPU = torch.device("cpu")
SIZES = (2, 3, 1)
"""Rows of each of three ranks."""
ROWS = torch.randn(sum(SIZES), 2, 4, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(3, *ROWS.shape, generator=torch.Generator().manual_seed(1))
"""Of all rows in the loss of each rank."""


def own_rows(rank):
    return ROWS.split(SIZES)[rank].clone().requires_grad_()


def layer():
    """A float32 and a float64 layer, the same on all ranks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2).double())


def batch(rank, index):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * rank + index))


def losses(model, inputs):
    """A loss that reaches all parameters."""
    return model[0](inputs).square().mean() + model[1](inputs.double()).square().mean()


def calls(name):
    """Counts the calls of a collective from here on."""
    real, seen = getattr(dist, name), []

    def counting(*args, **kwargs):
        seen.append(name)
        return real(*args, **kwargs)

    setattr(dist, name, counting)
    return seen


def test_without_a_process_group_there_is_one_rank(monkeypatch):
    assert (world_size(), distributed.rank()) == (1, 0)
    shards = Shards.of(3, CPU)
    rows, parts, mask = own_rows(0), torch.ones(2, 3, 4, requires_grad=True), torch.ones(2, 3, dtype=torch.bool)
    assert shards == Shards(0, (3,))
    assert shards.gather(rows) is rows
    assert [given is got for given, got in zip((parts, mask), shards.gather_parts(parts, mask), strict=True)] == [
        True
    ] * 2
    alone, total = Shards.with_sum(rows[:, 0])
    assert alone == Shards(0, (len(rows),))
    assert torch.equal(total, rows[:, 0].sum(0))
    assert not total.requires_grad
    assert [given is got for given, got in zip((parts, mask), shards.gather_with(parts, mask), strict=True)] == [
        True
    ] * 2
    assert share_of_ranks(torch.tensor(3)) is None
    assert from_first_rank(rows) is rows
    assert torch.equal(mean_over_ranks(rows), rows)
    assert not mean_over_ranks(rows).requires_grad
    # PyTorch may be built without
    monkeypatch.delattr(dist, "is_initialized")
    monkeypatch.setattr(dist, "is_available", lambda: False)
    assert world_size() == 1


def test_each_rank_knows_its_place():
    assert on_ranks(lambda _: (world_size(), distributed.rank()), 2) == [(2, 0), (2, 1)]
    assert on_ranks(lambda _: (world_size(), distributed.rank()), 1) == [(1, 0)]


@pytest.mark.parametrize(
    ("environment", "warns"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"LOCAL_RANK": "2"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "1"}, True),
        ({"RANK": "", "LOCAL_RANK": "1"}, False),
    ],
    ids=str,
)
def test_only_the_first_of_launched_processes_warns(monkeypatch, environment, warns):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (lambda: warn_on_first_rank("once"))()
    assert [str(warning.message) for warning in caught] == ["once"] * warns


def test_the_rank_of_the_group_decides_who_warns(monkeypatch):
    monkeypatch.setenv("RANK", "0")

    def run(_):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_on_first_rank("once")
        return len(caught)

    assert on_ranks(run) == [1, 0]


def test_means_are_over_all_ranks_and_leave_the_values_alone():
    def run(rank):
        values = torch.tensor([1.0, 5.0], requires_grad=True) * (rank + 1)
        mean = mean_over_ranks(values)
        return mean, mean.requires_grad, values.detach()

    ranks = on_ranks(run)
    for rank, (mean, has_gradient, values) in enumerate(ranks):
        assert mean.tolist() == [1.5, 7.5]
        assert not has_gradient
        assert values.tolist() == [1.0 + rank, 5.0 * (1 + rank)]


def test_the_first_rank_gives_its_values_to_all():
    def run(rank):
        values = torch.arange(6).view(2, 3).T + 10 * rank
        return from_first_rank(values), from_first_rank(values.T)

    for turned, straight in on_ranks(run):
        assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]
        assert straight.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_gradients_are_averaged_over_ranks_and_accumulated_batches():
    def run(rank):
        model = layer()
        model[0].bias.requires_grad_(False)
        for index in (0, 1):
            losses(model, batch(rank, index)).backward()
            before = [p.grad for p in model.parameters()]
            average_gradients(model.parameters())
            assert all(p.grad is old for p, old in zip(model.parameters(), before, strict=True))  # in place
        return [p.grad for p in model.parameters() if p.requires_grad]

    # the mean over ranks and batches of equal size
    model = layer()
    for index in (0, 1):
        losses(model, torch.cat([batch(0, index), batch(1, index)])).backward()
    expected = [p.grad for p in model.parameters() if p is not model[0].bias]
    ranks = on_ranks(run)
    for gradients in ranks:
        assert_close(gradients, expected)
    assert all(map(torch.equal, *ranks))


def test_a_rank_without_a_gradient_counts_as_zero():
    def run(rank):
        one, none, frozen, shard = (nn.Parameter(torch.ones(2, 1)) for _ in range(4))
        half = nn.Parameter(torch.ones(3, dtype=torch.float64))
        frozen.grad, shard.grad, half.grad = torch.ones(2, 1) * rank, torch.ones(2, 1) * rank, half.data * (rank + 4)
        frozen.requires_grad_(False)
        distributed.is_shard = lambda parameter: parameter is shard
        if rank == 1:
            (6 * one).sum().backward()
        collectives = calls("all_reduce")
        average_gradients([one, none, frozen, shard, half])
        return [p.grad for p in (one, none, frozen, shard, half)], len(collectives)

    for rank, ((one, none, frozen, shard, half), collectives) in enumerate(on_ranks(run)):
        assert one.tolist() == [[3], [3]]  # no gradient on rank 0, 6 on rank 1
        assert none is None
        assert frozen.tolist() == shard.tolist() == [[rank], [rank]]
        assert half.tolist() == [4.5] * 3
        assert half.dtype == torch.float64
        assert collectives == 2  # one for each dtype


def test_one_rank_keeps_its_gradients():
    weight, none = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    gradient = weight.grad = torch.tensor([3.0, 4.0])
    average_gradients([weight, none])
    assert weight.grad is gradient
    assert gradient.tolist() == [3, 4]
    assert none.grad is None


def test_a_distributed_tensor_is_told_by_its_class(monkeypatch):
    kind = type("DTensor", (), {})
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", SimpleNamespace(DTensor=kind))
    assert is_shard(kind())
    assert not is_shard(torch.zeros(2))
    monkeypatch.delitem(sys.modules, "torch.distributed.tensor")
    assert not is_shard(torch.zeros(2))


def test_rows_come_in_the_order_of_ranks_and_gradients_from_the_losses_of_all():
    def run(rank):
        rows = own_rows(rank)
        shards = Shards.of(len(rows), CPU)
        gathered, own = shards.gather(rows), WEIGHTS[rank].clone()
        gathered.backward(own)
        numbers = shards.gather(torch.arange(len(rows)) + 10 * rank)
        return shards.sizes, shards.rank, gathered.detach(), rows.grad, own, shards.local, numbers

    for rank, (sizes, place, gathered, gradient, own, local, numbers) in enumerate(on_ranks(run, 3)):
        assert (sizes, place) == (SIZES, rank)
        assert torch.equal(gathered, ROWS)
        assert_close(gradient, WEIGHTS.sum(0)[local])
        assert torch.equal(own, WEIGHTS[rank])  # which the exchange must not change
        assert local == (slice(0, 2), slice(2, 5), slice(5, 6))[rank]
        assert numbers.tolist() == [0, 1, 10, 11, 12, 20]


def test_the_mean_of_the_ranks_losses_is_the_mean_over_all_rows():
    def run(rank):
        shards = Shards.of(SIZES[rank], CPU)
        own = ROWS[:, 0, 0].split(SIZES)[rank]
        return mean_over_ranks(shards.mean(own)), shards.mean(own), len(own), own.sum()

    for mean, share, _, total in on_ranks(run, 3):
        assert_close(mean, ROWS[:, 0, 0].mean())
        assert_close(share, total * 3 / 6)


def test_sums_are_over_the_rows_of_all_ranks_and_come_with_their_numbers():
    def run(rank):
        seen = calls("all_gather")
        shards, total = Shards.with_sum(own_rows(rank)[:, 1].double())
        return shards, total, total.requires_grad, len(seen)

    for count in (2, 3):
        for rank, (shards, total, has_gradient, collectives) in enumerate(on_ranks(run, count)):
            assert shards == Shards(rank, SIZES[:count])
            assert_close(total, ROWS[: sum(SIZES[:count]), 1].sum(0))
            assert (has_gradient, collectives) == (False, 1)


def test_values_that_travel_with_rows_arrive_bit_for_bit_and_rows_get_their_gradient():
    keys = torch.randint(-(2**63), 2**63 - 1, (6, 5), generator=torch.Generator().manual_seed(0))
    keys[0, 0] = 0x7FA000017FA00001  # two signalling NaN, were they float32

    def run(rank):
        seen = calls("all_gather")
        rows = own_rows(rank)
        shards = Shards.of(len(rows), CPU)
        gathered, others = shards.gather_with(rows[:, 0], keys.split(SIZES)[rank])
        gathered.backward(WEIGHTS[rank][:, 0])
        return gathered.detach(), others, others.requires_grad, rows.grad, len(seen)

    for rank, (gathered, others, has_gradient, gradient, collectives) in enumerate(on_ranks(run, 3)):
        assert torch.equal(gathered, ROWS[:, 0])
        assert torch.equal(others, keys)
        assert (has_gradient, collectives) == (False, 2)
        assert_close(gradient[:, 0], WEIGHTS.sum(0)[:, 0].split(SIZES)[rank])


def test_means_of_ranks_that_are_multiplied_by_their_share_have_the_mean_of_all():
    def run(rank):
        count = torch.tensor(SIZES[rank])
        share = share_of_ranks(count)()
        return share, mean_over_ranks(share * own_rows(rank)[:, 0, 0].mean())

    for rank, (share, mean) in enumerate(on_ranks(run, 3)):
        assert_close(share, torch.tensor(SIZES[rank] * 3 / 6))
        assert_close(mean, ROWS[:, 0, 0].mean())


@pytest.mark.parametrize("longest", [(2, 4, 3), (4, 1, 2), (3, 3, 3)], ids=str)
def test_parts_are_padded_to_the_longest_of_all_ranks(longest):
    def parts_of(rank):
        random = torch.Generator().manual_seed(rank)
        parts = torch.randn(SIZES[rank], longest[rank], 5, generator=random)
        mask = torch.rand(SIZES[rank], longest[rank], generator=random) > 0.3
        return parts, mask

    def run(rank):
        parts, mask = parts_of(rank)
        parts.requires_grad_()
        gathered, kept = Shards.of(len(parts), CPU).gather_parts(parts, mask)
        (gathered * (rank + 1)).sum().backward()
        return gathered.detach(), kept, parts.grad

    most = max(longest)
    expected, masks = torch.zeros(6, most, 5), torch.zeros(6, most, dtype=torch.bool)
    start = 0
    for rank in range(3):
        parts, mask = parts_of(rank)
        expected[start : start + len(parts), : parts.shape[1]] = parts
        masks[start : start + len(parts), : parts.shape[1]] = mask
        start += len(parts)
    for rank, (gathered, kept, gradient) in enumerate(on_ranks(run, 3)):
        assert torch.equal(gathered, expected)
        assert kept.dtype == torch.bool
        assert torch.equal(kept, masks)
        assert torch.equal(gradient, torch.full((SIZES[rank], longest[rank], 5), 6.0))  # 1 + 2 + 3
