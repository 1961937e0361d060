"""A check that finds what differs between ranks, and says so on all of them."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parent))
from forked_ranks import on_ranks

from hardneg_plugin import agreement
from hardneg_plugin.agreement import ROUNDINGS, check_agreement
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives.memory import ReportQueue


def layer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2).double())


class Extra(nn.Module):
    """A module whose state is a value of its own."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def get_extra_state(self):
        return self.value

    def set_extra_state(self, state):
        pass


def scaled(rank, roundings, dtype=torch.float32, eps=None):
    """A layer that differs by so many roundings of its norm."""
    torch.manual_seed(0)
    module = nn.Linear(8, 8, bias=False, dtype=dtype)
    with torch.no_grad():
        module.weight.mul_(1 + rank * roundings * (eps or torch.finfo(dtype).eps))
    return module


def long(rank):
    values = torch.zeros(5000)
    values[2500] = rank
    return values


def modules(rank):
    drifted, buffer, infinite, last = layer(), nn.BatchNorm1d(2), layer(), layer()
    queue, same_queue = ReportQueue(3), ReportQueue(3)
    queue.push(torch.ones(2, 4), torch.ones(2, 4) + rank, torch.ones(2, 1, dtype=torch.int64))
    same_queue.push(torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 1, dtype=torch.int64))
    brief, learned, negated = nn.Linear(64, 64, dtype=torch.bfloat16), layer(), layer()
    with torch.no_grad():
        drifted[1].weight[0, 0] += 1e-12 * rank
        buffer.running_var[1] = rank
        infinite[0].weight[0, 0] = torch.inf if rank else torch.nan
        nn.init.uniform_(brief.weight, -1, 1, generator=torch.Generator().manual_seed(0))
        brief.bias.fill_(1.0 + rank / 128)  # the next bfloat16
        last[1].bias[1] += rank
        negated[0].weight.mul_(1 - 2 * rank)
    optimizer = torch.optim.Adam(learned.parameters(), lr=1e-5)
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank))
    (learned[0](inputs).square().mean() + learned[1](inputs.double()).square().mean()).backward()
    optimizer.step()
    counts, zeros = nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False)
    zeros.weight.data = torch.zeros(2, 2) * (1 - 2 * rank)
    counts.num_batches_tracked += rank
    return {
        "same": (layer(), ""),
        "same queue": (same_queue, ""),
        "same extra": (Extra({"a": [1, (2.5, "x")], "b": torch.ones(2)}), ""),
        "empty": (nn.Identity(), ""),
        "parameter": (drifted, "1.weight differ"),
        "last": (last, "but 1.bias differ"),
        "sign": (negated, "but 0.weight differ"),
        "queue": (queue, "but _extra_state differ"),
        "buffer": (buffer, "but running_var differ"),
        "integer": (counts, "but num_batches_tracked differ"),
        "shapes": (nn.Linear(2, 2 + rank), "but weight, bias differ"),
        "turned": (scaled(0, 0) if rank else nn.Linear(4, 16, bias=False), "but weight differ"),
        "dtype": (nn.Linear(2, 2, dtype=(torch.float32, torch.float64)[rank]), "but weight, bias differ"),
        "infinite": (infinite, "but 0.weight differ"),
        "brief": (brief, "but bias differ"),
        "learned": (learned, "1.weight"),
        "key": (Extra({("a", "b")[rank]: 1}), "but _extra_state differ"),
        "nested": (Extra({"a": [1, (2, 3 + rank)]}), "but _extra_state differ"),
        "nested tensor": (Extra([torch.zeros(2, 3), torch.tensor([1.0, rank])]), "but _extra_state differ"),
        "tensor's shape": (Extra([torch.zeros((2, 3)[rank], (3, 2)[rank])]), "but _extra_state differ"),
        # of which a printed form shows the ends only
        "long tensor in a mapping": (Extra({"a": long(rank)}), "but _extra_state differ"),
        "long tensor in a list": (Extra([long(rank)]), "but _extra_state differ"),
        "long tensor in a tuple": (Extra((1, long(rank))), "but _extra_state differ"),
        "with a gradient": (Extra(torch.ones(2, requires_grad=True)), ""),
        "class": (Extra((1, 1.0)[rank]), "but _extra_state differ"),
        # as after some steps on devices of two kinds
        "rounded": (scaled(rank, 8), ""),
        "rounded often": (scaled(rank, 0.9 * ROUNDINGS), ""),
        "rounded too often": (scaled(rank, 1.2 * ROUNDINGS), "but weight differ"),
        "double": (scaled(rank, 0.9 * ROUNDINGS, torch.float64), ""),
        "double, too often": (scaled(rank, 1.2 * ROUNDINGS, torch.float64), "but weight differ"),
        "zeros of either sign": (zeros, ""),
    }


def test_what_differs_is_named_on_all_ranks():
    def run(rank):
        found = {}
        for name, (module, expected) in modules(rank).items():
            state = {key: str(value) for key, value in module.state_dict().items()}
            found[name] = (error_of(module), expected)
            assert state == {key: str(value) for key, value in module.state_dict().items()}, name  # left alone
        return found

    ranks = on_ranks(run)
    assert ranks[0] == ranks[1]
    for name, (error, expected) in ranks[0].items():
        assert bool(error) == bool(expected), name
        assert expected in error, name
    assert "the objective: expected the same values on all 2 ranks, but" in ranks[0]["last"][0]
    assert "0.weight" in ranks[0]["learned"][0]


def error_of(module):
    try:
        check_agreement(module, "the objective")
    except UserError as error:
        return str(error)
    return ""


def test_shards_are_left_out_and_one_rank_checks_nothing(monkeypatch):
    def run(rank):
        drifted = layer()
        drifted[0].weight.data += rank
        whole = error_of(drifted)
        monkeypatch.setattr(agreement, "is_shard", lambda value: value.shape == (2, 3) and value.dtype == torch.float32)
        return whole, error_of(drifted)

    for whole, sharded in on_ranks(run):
        assert "0.weight differ" in whole
        assert sharded == ""
    monkeypatch.setattr(nn.Module, "state_dict", None)
    assert error_of(layer()) == ""


def test_the_collective_is_on_the_device_that_is_given(monkeypatch):
    def run(rank):
        seen, tensor = [], torch.tensor
        monkeypatch.setattr(torch, "tensor", lambda *args, device=None: seen.append(str(device)) or tensor(*args))
        for given in (None, torch.device("cpu", 0)):
            check_agreement(layer(), "head", given)
        check_agreement(nn.Identity(), "head")
        return seen

    assert on_ranks(run) == [["cpu", "cpu:0", "cpu"]] * 2
