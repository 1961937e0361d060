"""Where the objective's weights are in a checkpoint: beside the host's, inside, or nowhere; whole or in shards."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.plugin import objective_checkpoint
from hardneg_plugin.plugin.objective_checkpoint import ObjectiveCheckpoint


class Lightning(nn.Module):
    """What a LightningModule has of these hooks."""

    strict_loading, device = True, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.encoder, self.hard_negatives = nn.Linear(2, 2, bias=False), HardNegativeObjective()
        self.trainer, self.seen = SimpleNamespace(ckpt_path="a folder"), []

    def on_save_checkpoint(self, checkpoint):
        self.seen.append(list(checkpoint["state_dict"]))

    def on_load_checkpoint(self, checkpoint):
        self.seen.append(list(checkpoint.get("state_dict", ["none"])))


class Host(ObjectiveCheckpoint, Lightning):
    pass


WEIGHTS = {"log_scales": torch.tensor([1.5])}


@pytest.fixture
def loaded(monkeypatch):
    """What is checked and loaded of a sharded checkpoint."""
    seen = []
    monkeypatch.setattr(
        objective_checkpoint, "require_host_keys", lambda host, checkpoint, path: seen.append(("checked", path))
    )
    monkeypatch.setattr(objective_checkpoint, "load_whole_state", lambda module, state: seen.append((module, state)))
    return seen


def test_the_objective_is_saved_beside_the_host_which_sees_its_own_weights_alone():
    host = Host()
    checkpoint = {"state_dict": dict(host.state_dict())}
    host.on_save_checkpoint(checkpoint)
    assert host.seen == [["encoder.weight"]]
    assert list(checkpoint["state_dict"]) == ["encoder.weight"]
    assert torch.equal(checkpoint["hard_negatives"]["log_scales"], host.hard_negatives.log_scales)
    assert checkpoint["hard_negatives_settings"]["alignment"].startswith("InfoNCE(")
    assert "host_weights" not in checkpoint


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_it_goes_back_into_the_state_dict(loaded, place):
    host, weight = Host(), torch.ones(2, 2)
    checkpoint = {"state_dict": {"encoder.weight": weight}}
    if place == "beside":
        checkpoint["hard_negatives"] = WEIGHTS
    else:
        checkpoint["state_dict"]["hard_negatives.log_scales"] = WEIGHTS["log_scales"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        host.on_load_checkpoint(checkpoint)
    assert host.seen == [["encoder.weight"]]
    assert checkpoint["state_dict"] == {"encoder.weight": weight, "hard_negatives.log_scales": WEIGHTS["log_scales"]}
    assert not loaded


def test_a_sharded_host_is_checked_and_its_objective_loaded_by_itself(loaded):
    host = Host()
    checkpoint = {"hard_negatives": WEIGHTS}
    host.on_load_checkpoint(checkpoint)
    assert loaded == [("checked", "a folder"), (host.hard_negatives, WEIGHTS)]
    assert "state_dict" not in checkpoint


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_checkpoint_of_the_bare_host_starts_the_objective_afresh(loaded, is_whole):
    host = Host()
    checkpoint = {"state_dict": {"encoder.weight": torch.ones(2, 2)}} if is_whole else {}
    with pytest.warns(UserWarning, match="one of the bare host: the objective starts afresh") as told:
        host.on_load_checkpoint(checkpoint)
    assert ("Load it by load_from_checkpoint" in str(told[0].message)) == is_whole
    if is_whole:
        assert torch.equal(checkpoint["state_dict"]["hard_negatives.log_scales"], host.hard_negatives.log_scales)
    assert loaded == ([] if is_whole else [("checked", "a folder")])


@pytest.mark.parametrize("is_default", [True, False])
def test_settings_are_compared_where_nobody_chose_the_objective(loaded, is_default):
    host = Host()
    host._objective_is_default = is_default
    checkpoint = {"state_dict": {}, "hard_negatives": WEIGHTS, "hard_negatives_settings": {"hardening": "None"}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        host.on_load_checkpoint(checkpoint)
    assert [str(one.message).startswith("The checkpoint's objective has hardening=None") for one in told] == [
        True
    ] * is_default


def test_a_checkpoint_from_before_settings_were_kept_is_loaded_without_a_word(loaded):
    host = Host()
    host._objective_is_default = True
    checkpoint = {"state_dict": {}, "hard_negatives": WEIGHTS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        host.on_load_checkpoint(checkpoint)
    assert list(checkpoint["state_dict"]) == ["hard_negatives.log_scales"]
