"""One step of a host, whatever its signature, and what an idle optimizer stands for."""

import copy
from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hardneg_plugin.plugin.undisturbed import _as_lightning_gives, _configured, _Idle, one_step


def host_with(step):
    host = nn.Module()
    host.training_step = step
    return host


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda batch: (batch,), ("b",)),
        (lambda batch, batch_idx: (batch, batch_idx), ("b", 0)),
        (lambda batch, batch_idx=5: (batch, batch_idx), ("b", 0)),
        (lambda batch, batch_idx, dataloader_idx=2: (batch, batch_idx, dataloader_idx), ("b", 0, 2)),
        (lambda batch, *rest: (batch, *rest), ("b", 0)),
        (lambda *all_of_them: all_of_them, ("b",)),
        (lambda batch, *, scale=3: (batch, scale), ("b", 3)),
        (lambda batch, **options: (batch, options), ("b", {})),
        (lambda batch, index, /: (batch, index), ("b", 0)),
    ],
)
def test_a_step_gets_the_index_where_it_takes_one(step, expected):
    assert one_step(host_with(step), "b") == expected


def test_the_hosts_own_step_is_run_with_the_signature_of_the_plugged_one():
    host = host_with(lambda batch, batch_idx: pytest.fail("of the plug-in"))
    host._host_step = lambda *given: given
    assert one_step(host, "b") == ("b", 0)


def test_without_a_step_the_forward_is_run():
    class Adds(nn.Module):
        def forward(self, one, two=10):
            return one, two

    assert one_step(Adds(), 1) == (1, 10)
    assert one_step(Adds(), {"one": 1, "two": 2}) == (1, 2)
    assert one_step(Adds(), UserDict(one=1)) == (1, 10)


@pytest.mark.parametrize(
    "batch", [{"a": 1, "b": 2}, UserDict(a=1, b=2), [1, 2]], ids=lambda batch: type(batch).__name__
)
def test_a_step_that_takes_entries_out_of_its_batch_takes_them_out_of_a_copy(batch):
    before = copy.copy(batch)
    one_step(host_with(lambda batch: batch.clear()), batch)
    assert batch == before


def made(count):
    return [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1 + i) for i in range(count)]


ONE, TWO = made(2)
FIRST, SECOND = (torch.optim.lr_scheduler.StepLR(optimizer, 1) for optimizer in (ONE, TWO))


@pytest.mark.parametrize(
    ("returned", "optimizers", "schedulers"),
    [
        (ONE, [ONE], []),
        ([ONE, TWO], [ONE, TWO], []),
        ((ONE, TWO), [ONE, TWO], []),
        (([ONE, TWO], [FIRST, SECOND]), [ONE, TWO], [FIRST, SECOND]),
        (((ONE, TWO), (FIRST,)), [ONE, TWO], [FIRST]),
        (([ONE], [{"scheduler": FIRST, "interval": "step"}]), [ONE], [FIRST]),
        ({"optimizer": ONE}, [ONE], []),
        ({"optimizer": ONE, "lr_scheduler": FIRST}, [ONE], [FIRST]),
        ({"optimizer": ONE, "lr_scheduler": {"scheduler": FIRST}}, [ONE], [FIRST]),
        (({"optimizer": ONE, "lr_scheduler": FIRST}, {"optimizer": TWO}), [ONE, TWO], [FIRST]),
        ([{"optimizer": ONE, "lr_scheduler": FIRST}, TWO], [ONE, TWO], [FIRST]),
        ([], [], []),
    ],
)
def test_optimizers_and_schedulers_are_found_in_every_form(returned, optimizers, schedulers):
    found = _configured(SimpleNamespace(configure_optimizers=lambda: returned))
    assert [list(map(id, part)) for part in found] == [list(map(id, part)) for part in (optimizers, schedulers)]


def test_one_comes_alone_and_several_in_a_list():
    assert _as_lightning_gives([ONE]).of is ONE
    assert [idle.of for idle in _as_lightning_gives([ONE, TWO])] == [ONE, TWO]
    assert _as_lightning_gives([]) == []


def test_an_idle_optimizer_is_read_and_does_nothing():
    parameter = nn.Parameter(torch.ones(1))
    idle = _Idle(torch.optim.SGD([parameter], lr=0.5))
    parameter.grad = torch.ones(1)
    assert idle.param_groups[0]["lr"] == 0.5
    assert idle.optimizer is idle.of
    assert idle.zero_grad() is None
    assert idle.step() is None
    assert idle.step(lambda: 7) == 7
    assert idle.no_such_method(3, a=4) is None
    with idle.toggle_model():
        assert parameter.item() == 1
    assert parameter.grad.item() == 1
