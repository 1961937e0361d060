"""Strategies that are refused, and what a sharded host is told; training under strategies is in tests/integration."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin import rank_agreement
from hardneg_plugin.plugin.rank_agreement import (
    RankAgreement,
    clip_mixed,
    is_sharded,
    load_whole_state,
    require_host_keys,
    whole_state,
)


class Engine(nn.Module):
    """As FSDP and DeepSpeed put around a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


class Wrapping(SingleDeviceStrategy):
    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        self.model = Engine(self.model)


@pytest.fixture
def model():
    return plug_in(Captioner(), HardNegativeObjective(image_width=8, report_width=8, width=4), **PLACES)


def test_a_wrapper_that_is_not_ddp_is_refused(model, tmp_path):
    with pytest.raises(
        UserError, match=r"Wrapping wraps the model in Engine, .* a single device, ddp, .* ModelParallelStrategy"
    ):
        trainer(tmp_path, strategy=Wrapping("cpu")).fit(model, loader())


def test_ranks_without_a_process_group_are_refused(model, tmp_path):
    strategy = SingleDeviceStrategy("cpu")
    strategy.world_size = 2  # as a strategy for XLA, which has processes of its own
    with pytest.raises(UserError, match=r"SingleDeviceStrategy trains on 2 ranks, but torch\.distributed knows 1"):
        trainer(tmp_path, strategy=strategy).fit(model, loader())


def test_the_bare_host_trains_with_such_a_wrapper(tmp_path):
    strategy = Wrapping("cpu")
    trainer(tmp_path, strategy=strategy).fit(Captioner(), loader())
    assert isinstance(strategy.model, Engine)


def test_an_unsharded_host_is_strict_and_whole(model):
    assert not is_sharded(model)
    assert model.strict_loading
    assert "hard_negatives.log_scales" in model.state_dict()
    model.strict_loading = False
    assert not model.strict_loading


def test_a_file_without_some_weights_of_the_host():
    host = Captioner()
    require_host_keys(host, {"host_weights": list(host.state_dict())})
    require_host_keys(host, {})  # of a bare host: nothing is known
    few = {"host_weights": [name for name in host.state_dict() if "norm" not in name]}
    with pytest.raises(UserError, match=r"no weights decoder.norm.bias, decoder.norm.weight of Captioner"):
        require_host_keys(host, few)
    host.strict_loading = False
    require_host_keys(host, few)


def test_a_file_of_the_bare_host_without_some_weights(tmp_path):
    host = Captioner()
    path = tmp_path / "bare.ckpt"
    torch.save({"state_dict": host.state_dict()}, path)
    require_host_keys(host, {}, path)
    require_host_keys(host, {}, tmp_path)  # a folder
    torch.save({"state_dict": {name: value for name, value in host.state_dict().items() if "norm" not in name}}, path)
    with pytest.raises(UserError, match=r"no weights decoder.norm.bias, decoder.norm.weight of Captioner"):
        require_host_keys(host, {}, path)
    torch.save({"state_dict": host.state_dict(), "path": tmp_path}, path)  # a class that is not read without trust
    with pytest.warns(UserWarning, match=r"bare.ckpt has all weights of Captioner is not checked: Weights only load"):
        require_host_keys(host, {}, path)


def test_whole_state_goes_into_another_module():
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    first(torch.randn(4, 3))
    load_whole_state(second, whole_state(first))
    assert_close(second.state_dict(), first.state_dict())


class Bare(nn.Module):
    """What a LightningModule has of these hooks; keeps what they are called with."""

    strict_loading = True

    def __init__(self):
        super().__init__()
        self.calls = []
        self.encoder, self.hard_negatives = nn.Linear(2, 2), nn.Linear(2, 2)
        self.trainer = SimpleNamespace(global_step=0, gradient_clip_val=None, gradient_clip_algorithm=None)
        self.automatic_optimization, self.device, self._strict_loading = True, torch.device("cpu"), None


def _keeps(name):
    return lambda self, *args, **kwargs: self.calls.append((name, args))


HOOKS = (
    "on_fit_start",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "clip_gradients",
)
for hook in HOOKS:
    setattr(Bare, hook, _keeps(hook))


class Agreeing(RankAgreement, Bare):
    pass


@pytest.fixture
def done(monkeypatch):
    """What is exchanged between ranks."""
    seen = []
    monkeypatch.setattr(rank_agreement, "check_agreement", lambda module, what, device: seen.append("checked"))
    monkeypatch.setattr(rank_agreement, "average_gradients", lambda parameters: seen.append(len(list(parameters))))
    return seen


def test_ranks_are_checked_after_the_first_step_and_at_the_end_of_the_first_epoch(done):
    host = Agreeing()
    host.trainer.global_step = 7  # resumed
    host._first_step, host._is_first_epoch = 7, True
    for step in (7, 7, 8, 9):  # two batches are accumulated
        host.trainer.global_step = step
        host.on_train_batch_end("outputs", "batch", 0)
        assert len(done) == (step > 7)
    host.on_train_epoch_end()
    host.on_train_epoch_end()
    assert done == ["checked", "checked"]
    assert [name for name, _ in host.calls] == ["on_train_batch_end"] * 4 + ["on_train_epoch_end"] * 2
    assert host.calls[0][1] == ("outputs", "batch", 0)


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("automatic", [False, True])
def test_gradients_are_averaged_where_nobody_else_does(done, averages, automatic):
    host = Agreeing()
    host._averages, host.automatic_optimization = averages, automatic
    host.on_after_backward()
    assert done == [2] * averages
    host.on_before_optimizer_step("optimizer")
    assert done == [2] * averages + [2] * (averages and not automatic)
    assert host.calls == [("on_after_backward", ()), ("on_before_optimizer_step", ("optimizer",))]


@pytest.mark.parametrize(
    ("wrapped", "size", "averages"), [(False, 1, False), (False, 2, True), (True, 2, False), (True, 1, False)]
)
def test_the_objective_starts_as_on_the_first_rank_where_nothing_wraps_the_host(monkeypatch, wrapped, size, averages):
    host = Agreeing()
    host.hard_negatives.register_buffer("centre", torch.ones(3))
    model = DistributedDataParallel.__new__(DistributedDataParallel) if wrapped else host
    host.trainer.strategy = SimpleNamespace(model=SimpleNamespace(_orig_mod=model))  # compiled
    host.trainer.world_size, host.trainer.global_step = size, 5
    monkeypatch.setattr(rank_agreement, "world_size", lambda: size)
    monkeypatch.setattr(rank_agreement, "from_first_rank", lambda value: torch.full_like(value, 7.0))
    encoder = host.encoder.weight.clone()
    host.on_fit_start()
    assert host._averages is averages
    assert (host._first_step, host._is_first_epoch) == (5, True)
    for value in (*host.hard_negatives.parameters(), host.hard_negatives.centre):
        assert (value == 7).all() == averages
    assert torch.equal(host.encoder.weight, encoder)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (None, None),
        ({"tensor_parallel": 2}, None),
        ({"data_parallel": 2}, None),
        ({"data_parallel": 1, "tensor_parallel": 2}, r"gives 1 batches to 2 ranks.*data_parallel_size=2"),
    ],
)
def test_one_batch_for_several_ranks_is_refused(monkeypatch, mesh, message):
    monkeypatch.setattr(rank_agreement, "world_size", lambda: 2)
    host = Agreeing()
    host.trainer.strategy, host.trainer.world_size = SimpleNamespace(model=host), 2
    monkeypatch.setattr(rank_agreement, "from_first_rank", lambda value: value)
    if mesh is not None:

        class Mesh(dict):
            mesh_dim_names = tuple(mesh)

        host.device_mesh = Mesh({name: SimpleNamespace(size=lambda size=size: size) for name, size in mesh.items()})
    with pytest.raises(UserError, match=message) if message else nullcontext():
        host.on_fit_start()


@pytest.fixture
def mixed(monkeypatch):
    """Three parameters of which the second counts as sharded; their gradients have a norm of 13."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for parameter, gradient in zip(parameters, ([3.0, 0.0], [0.0, 4.0], [12.0, 0.0]), strict=True):
        parameter.grad = torch.tensor(gradient)
    monkeypatch.setattr(rank_agreement, "is_shard", lambda value: value is parameters[1])
    return parameters


def gradients_of(parameters):
    return [parameter.grad.tolist() for parameter in parameters]


CLIPPED = [[1.5, 0.0], [0.0, 2.0], [6.0, 0.0]]


def test_gradients_of_which_some_are_sharded_are_clipped_by_their_common_norm(mixed):
    clip_mixed(mixed, 6.5, "norm")
    torch.testing.assert_close(gradients_of(mixed), CLIPPED, rtol=1e-5, atol=0)
    clip_mixed(mixed, 100.0, "norm")
    torch.testing.assert_close(gradients_of(mixed), CLIPPED, rtol=1e-5, atol=0)


def test_or_each_element_by_its_value(mixed):
    clip_mixed(mixed, 3.5, "value")
    assert gradients_of(mixed) == [[3, 0], [0, 3.5], [3.5, 0]]


@pytest.mark.parametrize(
    ("given", "of_trainer", "expected"),
    [
        ((6.5, None), (None, None), [1.5, 2, 6]),
        ((None, None), (6.5, None), [1.5, 2, 6]),
        ((6.5, "norm"), (1.0, "value"), [1.5, 2, 6]),
        ((None, None), (3.5, "value"), [3, 3.5, 3.5]),
        ((3.5, SimpleNamespace(value="VALUE")), (None, None), [3, 3.5, 3.5]),
        ((None, None), (None, None), [3, 4, 12]),
        ((0.0, None), (6.5, None), [3, 4, 12]),
    ],
    ids=str,
)
def test_a_limit_of_the_call_comes_before_the_trainers(mixed, given, of_trainer, expected):
    host = Agreeing()
    host.trainer.gradient_clip_val, host.trainer.gradient_clip_algorithm = of_trainer
    frozen = nn.Parameter(torch.zeros(2))  # without a gradient
    host.clip_gradients(torch.optim.SGD([{"params": mixed[:1]}, {"params": [*mixed[1:], frozen]}], lr=0.1), *given)
    assert [max(gradient) for gradient in gradients_of(mixed)] == pytest.approx(expected, rel=1e-5)
    assert not host.calls


@pytest.mark.parametrize("alike", [[0, 2], [1], []])
def test_gradients_of_one_kind_are_left_to_lightning(mixed, alike):
    host = Agreeing()
    optimizer = torch.optim.SGD([mixed[i] for i in alike] + [nn.Parameter(torch.zeros(1))], lr=0.1)
    host.clip_gradients(optimizer, 1.0, "norm")
    assert host.calls == [("clip_gradients", (optimizer, 1.0, "norm"))]
    assert gradients_of(mixed) == [[3, 0], [0, 4], [12, 0]]


def test_the_state_of_a_sharded_host_is_that_of_the_bare_one(monkeypatch):
    host = Agreeing()
    assert host.strict_loading
    monkeypatch.setattr(rank_agreement, "is_shard", lambda value: value is host.encoder.weight)
    assert is_sharded(host)
    assert list(host.state_dict()) == ["encoder.weight", "encoder.bias"]
    assert not host.strict_loading


@pytest.fixture
def mesh():
    """Of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_the_state_of_shards_is_whole_and_goes_back_into_shards(mesh):
    def sharded():
        module = nn.BatchNorm1d(4)
        module.weight = nn.Parameter(distribute_tensor(torch.randn(4), mesh, [Shard(0)]))
        return module

    first, second = sharded(), sharded()
    assert is_sharded(first)
    state = whole_state(first)
    assert not any(isinstance(value, DTensor) or value.requires_grad for value in state.values())
    assert_close(state["weight"], first.weight.full_tensor().detach())
    load_whole_state(second, state)
    assert isinstance(second.weight, DTensor)
    assert_close(whole_state(second), state)
