"""Placing a model on a device."""

import pytest
import torch
from torch import nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.models.base import move_to_device


def test_without_a_device_a_gpu_is_taken_if_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert move_to_device(nn.Linear(1, 1), None).weight.device.type == expected


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_does_not_exist_is_named(device):
    with pytest.raises(UserError, match=f"^device={device}: [^\n]+$"):
        move_to_device(nn.Linear(1, 1), device)
