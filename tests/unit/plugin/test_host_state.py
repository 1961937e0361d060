"""The objective's entries in a state dict, and a default objective beside that of a checkpoint."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hardneg_plugin import HardNegativeObjective, host_state_dict
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import Arc
from hardneg_plugin.objectives import Queue
from hardneg_plugin.objectives.schedule import Constant, Linear
from hardneg_plugin.plugin.host_state import check_default_fits, settings_of, take_out

SIZES = {"image_width": 3, "report_width": 2, "width": 4}


def test_only_names_below_the_objective_are_taken_out_and_lose_their_prefix():
    state = {"hard_negatives.scale": 1, "hard_negatives_too": 2, "encoder.hard_negatives.x": 3, "hard_negatives.a.b": 4}
    assert take_out(state) == {"scale": 1, "a.b": 4}
    assert state == {"hard_negatives_too": 2, "encoder.hard_negatives.x": 3}


def test_the_state_of_a_host_is_another_dict():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "hard_negatives": nn.Linear(2, 2)})
    assert list(host_state_dict(model)) == ["encoder.weight", "encoder.bias"]
    assert len(model.state_dict()) == 4


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.rule = object()
        self.inner = nn.Identity()
        self.long = list(range(1000))


def test_settings_are_own_attributes_and_modules_without_addresses():
    found = settings_of(Odd())
    assert list(found) == ["rule", "long", "inner"]
    assert found["rule"] == "<object object>"
    assert found["inner"] == "Identity()"
    assert found["long"] == repr(list(range(1000)))[:400]


def test_settings_of_the_same_and_of_another_objective():
    assert settings_of(HardNegativeObjective(**SIZES)) == settings_of(HardNegativeObjective(**SIZES))
    one, other = (settings_of(HardNegativeObjective(schedule=schedule)) for schedule in (Linear(), Constant()))
    assert [name for name in one if one[name] != other[name]] == ["schedule"]


def check(trained, default, **settings):
    check_default_fits(trained.state_dict(), {**settings_of(trained), **settings}, default, "Host")


def test_the_same_objective_fits_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(HardNegativeObjective(**SIZES), HardNegativeObjective(**SIZES))
        check(HardNegativeObjective(negatives=Queue(size=4)), HardNegativeObjective(negatives=Queue(size=4)))
        # of an earlier version: without settings, or with one that is no more
        check_default_fits({}, {}, HardNegativeObjective(), "Host")


@pytest.mark.parametrize(
    ("trained", "default", "names"),
    [
        ({**SIZES}, {}, r"image_head\.centre, image_head\.batches|image_head\.weight"),
        ({**SIZES, "width": 5}, SIZES, r"image_head\.weight, report_head\.weight, which"),
        ({"negatives": Queue(size=4)}, {}, r"weights negatives\.queue\._extra_state, which"),
    ],
    ids=["heads", "another width", "a queue"],
)
def test_weights_that_do_not_fit_are_refused_by_name(trained, default, names):
    message = rf"({names}).*of Host: pass.*Host\.load_from_checkpoint\(path, hard_negatives="
    with pytest.raises(UserError, match=message):
        check(HardNegativeObjective(**trained), HardNegativeObjective(**default))


def test_weights_that_a_checkpoint_lacks_are_no_reason():
    check_default_fits({}, {}, HardNegativeObjective(**SIZES), "Host")


def test_other_settings_are_warned_of_one_by_one():
    trained = HardNegativeObjective(schedule=Constant(hardness=0.5), hardening=Arc(margin=0.1))
    message = (
        r"objective has hardening=Arc\(margin=0\.1\) instead of Arc\(margin=0\.0\), schedule=Constant\(.*hardness=0\.5\) "
        r"instead of Linear\(.*\), which the default one of Host has"
    )
    with pytest.warns(UserWarning, match=message):
        check(trained, HardNegativeObjective(), no_more="3")


def test_a_setting_that_is_no_more_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(HardNegativeObjective(), HardNegativeObjective(), no_more="3")


def in_ddp(model):
    """As on a rank, but without a process group."""
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


@pytest.mark.parametrize("wrap", [torch.compile, in_ddp, lambda model: torch.compile(in_ddp(model))])
def test_a_wrapped_model_gives_the_names_of_what_is_inside(wrap):
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2, bias=False), "hard_negatives": nn.Linear(2, 2)})
    assert list(host_state_dict(wrap(model))) == ["encoder.weight"]
