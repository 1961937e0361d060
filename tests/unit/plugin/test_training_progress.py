"""Where a training is, as the mixin tells the schedule, for every way in which Lightning counts."""

import math
from types import SimpleNamespace

import pytest

from hardneg_plugin import HardNegativeMixin
from hardneg_plugin.objectives.schedule import TrainingProgress


def progress(*, automatic=True, total=40, step=10, epoch=3, batches=0, max_steps=-1):
    trainer = SimpleNamespace(
        estimated_stepping_batches=total,
        global_step=step,
        current_epoch=epoch,
        max_steps=max_steps,
        fit_loop=SimpleNamespace(total_batch_idx=batches),
    )
    host = SimpleNamespace(trainer=trainer, automatic_optimization=automatic)
    return HardNegativeMixin._progress(host)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, (10, 3, 0.25)),
        ({"step": 0, "epoch": 0}, (0, 0, 0.0)),
        ({"step": 40}, (40, 3, 1.0)),
        ({"step": 60}, (60, 3, 1.0)),  # resumed with fewer epochs
        ({"total": math.inf}, (10, 3, 0.0)),
        ({"total": 0, "step": 0}, (0, 3, 0.0)),
        ({"total": 1, "step": 1}, (1, 3, 1.0)),
        ({"batches": 30, "max_steps": 20}, (10, 3, 0.25)),  # of manual optimisation only
        # two optimizers: two steps for each batch count in global_step and max_steps, one in the estimate
        ({"automatic": False, "batches": 8, "step": 16}, (8, 3, 0.2)),
        ({"automatic": False, "batches": 8, "step": 16, "max_steps": 32}, (8, 3, 0.5)),
        ({"automatic": False, "batches": 30, "step": 30, "max_steps": 60}, (30, 3, 0.75)),
        ({"automatic": False, "batches": 1, "step": 1, "max_steps": 1}, (1, 3, 1.0)),
        ({"automatic": False, "batches": 50, "step": 100, "max_steps": 80}, (50, 3, 1.0)),
        ({"automatic": False, "batches": 1, "total": 1}, (1, 3, 1.0)),
        ({"automatic": False, "batches": 8, "total": math.inf, "max_steps": 32}, (10, 3, 0.0)),
    ],
    ids=str,
)
def test_steps_epochs_and_the_fraction_of_the_training(counts, expected):
    step, epoch, fraction = expected
    assert progress(**counts) == TrainingProgress(step=step, epoch=epoch, fraction=fraction)
