"""Hardness over training: recorded values, and properties over a table of schedules."""

import math
from itertools import pairwise

import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives.schedule import Constant, Cosine, Exponential, Linear, TrainingProgress

SCHEDULES = [
    Constant(hardness=0.4),
    Constant(hardness=0.95, cap=0.9),
    Exponential(rate=0.01),
    Exponential(rate=3.0, unit="fraction", warmup=0.2),
    Exponential(rate=0.001, unit="step", warmup=100),
    Linear(),
    Linear(unit="epoch", warmup=2, end=10),
    Linear(unit="step", end=500, peak=0.5),
    Cosine(warmup=0.1, end=0.8),
]


def course(epochs=20, steps=50):
    total = epochs * steps
    return [TrainingProgress(step=s, epoch=s // steps, fraction=s / total) for s in range(total + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_rises_within_its_cap_and_is_off_during_the_warm_up(schedule):
    values = [schedule(progress) for progress in course()]
    active = [schedule.is_active(progress) for progress in course()]
    assert all(0 <= value <= schedule.cap for value in values)
    assert all(b >= a for a, b in pairwise(values))
    assert values[-1] > 0
    assert active == sorted(active)
    assert all(value == 0 for value, is_on in zip(values, active, strict=True) if not is_on)
    assert active[0] == (schedule.warmup == 0)


def test_released_curve():
    """lambda = exp(-0.01 * epoch) with epochs from 1."""
    schedule = Exponential(rate=0.01, unit="epoch")
    for epoch in range(100):
        assert schedule(TrainingProgress(epoch=epoch)) == pytest.approx(min(0.9, 1 - math.exp(-0.01 * (epoch + 1))))


def test_linear_and_cosine_by_hand():
    linear = Linear(unit="step", warmup=100, end=300, peak=0.8)
    assert [linear(TrainingProgress(step=s)) for s in (0, 99, 100, 200, 300, 1000)] == pytest.approx(
        [0, 0, 0, 0.4, 0.8, 0.8]
    )
    cosine = Cosine(unit="step", warmup=100, end=300, peak=0.8)
    assert [cosine(TrainingProgress(step=s)) for s in (100, 150, 200, 300)] == pytest.approx(
        [0, 0.8 * (1 - math.cos(math.pi / 4)) / 2, 0.4, 0.8]
    )


def test_epochs_warm_up_in_whole_epochs():
    schedule = Constant(hardness=0.5, unit="epoch", warmup=2)
    assert [schedule.is_active(TrainingProgress(epoch=e)) for e in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("schedule", "options", "key"),
    [
        (Linear, {"unit": "week"}, "unit"),
        (Linear, {"warmup": -1}, "warmup"),
        (Linear, {"warmup": 1.0}, "warmup"),
        (Linear, {"cap": 1.5}, "cap"),
        (Cosine, {"warmup": 0.5, "end": 0.5}, "end"),
        (Linear, {"peak": 1.2}, "peak"),
        (Constant, {"hardness": -0.1}, "hardness"),
        *((schedule, {"unit": "week"}, "unit") for schedule in (Constant, Cosine, Exponential)),
        *((schedule, {"cap": -0.1}, "cap") for schedule in (Constant, Cosine, Exponential)),
        (Exponential, {"rate": -1}, "rate"),
    ],
)
def test_bad_options_name_their_key(schedule, options, key):
    with pytest.raises(UserError, match=rf"schedule\.{key}"):
        schedule(**options)
