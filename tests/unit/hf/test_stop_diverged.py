"""A Trainer that diverges ends at once, and saves no checkpoint that is not finite."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hardneg_plugin.divergence import DivergedError, FiniteSteps
from hardneg_plugin.hf.stop_diverged import StopDivergedTrainer

sys.path.append(str(Path(__file__).parent))
import tiny_generator as tiny


class Diverging(tiny.Generator):
    """Its loss is not finite from a step on, or has a gradient that is not, at that step only."""

    loss_from = gradient_at = constant_from = math.inf

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("hidden", torch.tensor([-math.inf]))
        self.steps = 0

    def forward(self, pixels, input_ids, mask=None, labels=None, **kwargs):
        outputs = super().forward(pixels, input_ids, mask, labels, **kwargs)
        if not self.training:
            return outputs
        self.steps += 1
        if self.steps >= self.loss_from:
            outputs["loss"] = outputs["loss"] * math.nan
        if self.steps >= self.constant_from:
            outputs["loss"] = outputs["loss"] + math.inf
        if self.steps == self.gradient_at:
            outputs["loss"] = outputs["loss"] + (self.image.weight * 0).sum().sqrt()
        return outputs


def make(folder, plugged=None, saves=True, **when):
    saving = {"save_strategy": "steps", "save_steps": 2} if saves else {}
    trainer = tiny.trainer(folder, Diverging, max_steps=9, plugged=plugged, **saving)
    vars(trainer.model).update(when)
    return trainer


def saved(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_it_ends_at_the_third_step_with_the_studies_of_the_first_and_the_way_out(tmp_path):
    trainer = make(tmp_path, constant_from=3)
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    last = tmp_path / "checkpoint-4"
    assert str(caught.value) == (
        "Training diverged: the loss was not finite in 3 steps in a row, the first of them step 3 in epoch 1, with the studies 8, "
        f"9, 10, 11. {last} is whole: look at these studies, and go on with trainer.train(resume_from_checkpoint={str(last)!r})."
    )
    assert trainer.model.steps == 5
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]  # the gradients of that loss were finite


@pytest.mark.parametrize("when", [{"loss_from": 3}, {"gradient_at": 3}])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, when):
    with pytest.raises(
        DivergedError, match=r"after step 4 in epoch 1 \S+weight and \d more are not finite; the .* step 3 in epoch 1"
    ):
        make(tmp_path, **when).train()
    assert saved(tmp_path) == ["checkpoint-2"]


def test_nor_are_they_what_a_training_ends_with(tmp_path):
    trainer = make(tmp_path, saves=False, gradient_at=9)
    with pytest.raises(DivergedError, match=r"after step 9 in epoch 3 .* No checkpoint was saved before"):
        trainer.train()


def test_without_it_a_training_goes_on(tmp_path):
    trainer = make(tmp_path, saves=False, plugged={"diverged_after": None}, loss_from=3)
    trainer.train()
    assert trainer.model.steps == 9


def test_skipped_steps_of_a_scaler_do_not_count_until_its_scale_is_below_one():
    """What the Trainer calls; without a GPU accelerate has no scaler."""
    scale, parameter = [4.0], nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.0, math.nan])
    model = nn.ParameterList([parameter])
    callback = StopDivergedTrainer(FiniteSteps(2), nn.Identity(), lambda: scale[0])
    state, control, arguments = (type("Fields", (), values)() for values in (
        {"global_step": 0, "epoch": 0.0},
        {"should_evaluate": False, "should_save": False},
        {"output_dir": None},
    ))  # fmt: skip
    for step, now in enumerate((4.0, 2.0, 1.0, 0.5), start=1):
        state.global_step, scale[0] = step, now
        callback.on_pre_optimizer_step(arguments, state, control, model=model)
        callback.on_step_end(arguments, state, control, model=model)
    state.global_step, scale[0] = 5, 0.25
    callback.on_pre_optimizer_step(arguments, state, control, model=model)
    with pytest.raises(DivergedError, match="first of them step 4"):
        callback.on_step_end(arguments, state, control, model=model)
