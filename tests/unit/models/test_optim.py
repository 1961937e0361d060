"""The learning-rate schedule by its formula."""

import math

import pytest
import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.models.optim import warmup_cosine


def test_rises_linearly_then_falls_along_half_a_cosine():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(optimizer, total_steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    expected = [(t + 1) / 10 if t < 10 else 0.5 * (1 + math.cos(math.pi * (t - 10) / 90)) for t in range(100)]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([0.1 * value for value in expected])


def test_warmup_is_a_share():
    with pytest.raises(UserError, match="warmup"):
        warmup_cosine(torch.optim.SGD([torch.ones(1)], lr=1), total_steps=10, warmup=1.0)
