"""Strategies that are refused, and what a sharded host is told; training under strategies is in tests/integration."""

import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import nn
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.rank_agreement import is_sharded, load_whole_state, require_host_keys, whole_state


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
