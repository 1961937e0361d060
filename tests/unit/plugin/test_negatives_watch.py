"""When the first steps of a training without hard negatives are told."""

import warnings
from unittest import mock

import pytest
import torch

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.objectives import Bank
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.plugin.negatives_watch import STEPS, NegativesWatch


def watched(watch, epoch, found=0.0, studies=1, **options):
    """Ten steps of an epoch."""
    for _ in range(STEPS):
        watch(torch.tensor(found), studies, HardNegativeObjective(**options), TrainingProgress(epoch=epoch))


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("refresh_every", [1, 3])
def test_the_epochs_before_the_first_search_of_a_bank_do_not_count(refresh_every):
    watch = NegativesWatch()
    for epoch in range(refresh_every):
        watched(watch, epoch, negatives=Bank(refresh_every=refresh_every))
    with pytest.warns(UserWarning, match="No hard negative was found in 10 steps with 1 study per device"):
        watched(watch, refresh_every, negatives=Bank(refresh_every=refresh_every))


def test_it_is_told_once_and_of_the_first_steps_only():
    watch = NegativesWatch()
    with pytest.warns(UserWarning, match="with 2 studies per device"):
        watched(watch, 0, studies=2)
    watched(watch, 1)
    watch = NegativesWatch()
    watched(watch, 0, found=0.1)
    watched(watch, 1)


def test_it_waits_for_the_device_once_and_keeps_no_graph():
    watch, objective = NegativesWatch(), HardNegativeObjective()
    with mock.patch.object(torch.Tensor, "__float__", autospec=True, return_value=0.0) as read:
        for step in range(STEPS - 1):
            watch(torch.tensor(0.0, requires_grad=True), 1, objective, TrainingProgress(step=step))
        assert read.call_count == 0
        assert not watch.found.requires_grad
        with pytest.warns(UserWarning, match="No hard negative was found in 10 steps") as told:
            watch(torch.tensor(0.0), 1, objective, TrainingProgress(step=STEPS))
        watch(torch.tensor(0.0), 1, objective, TrainingProgress(step=STEPS + 1))
    assert read.call_count == len(told) == 1
