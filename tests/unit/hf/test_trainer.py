"""Hugging Face's Trainer with hard negatives, against a loop by hand."""

import math
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.errors import UserError
from hardneg_plugin.hf import HardNegativeTrainer, HardNegativeTrainerMixin
from hardneg_plugin.hf.strategy import check_strategy
from hardneg_plugin.objectives import ByText
from hardneg_plugin.objectives.schedule import Exponential

sys.path.append(str(Path(__file__).parent))
import tiny_generator as tiny
from by_hand import assert_same, by_hand, logged
from tiny_sft import OF_TEXT, llama, sft


@pytest.mark.parametrize("kind", [tiny.Generator, tiny.MeanGenerator])
@pytest.mark.parametrize(("accumulated", "clip"), [(1, 0.0), (2, 0.0), (2, 0.01)])
def test_weights_and_logs_are_those_of_a_loop_by_hand(kind, accumulated, clip, tmp_path):
    trainer = tiny.trainer(tmp_path, kind, gradient_accumulation_steps=accumulated, max_grad_norm=clip)
    trainer.train()
    expected, logs = by_hand(kind, accumulated, clip)
    assert_same(tiny.weights(trainer), expected)
    torch.testing.assert_close(torch.tensor(logged(trainer.state.log_history)), torch.tensor(logs), atol=1e-6, rtol=0)
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert losses == pytest.approx([0.7 * report + 0.5 * alignment for report, alignment, _ in logs], abs=1e-4)


def test_the_schedule_follows_the_epochs(tmp_path):
    trainer = tiny.trainer(tmp_path, max_steps=-1, num_train_epochs=3)
    trainer.hard_negatives.schedule = Exponential(rate=0.3)
    trainer.train()
    hardness = [one["hardness"] for one in trainer.state.log_history if "hardness" in one]
    steps = len(hardness) // 3
    assert hardness == pytest.approx([1 - math.exp(-0.3 * (1 + step // steps)) for step in range(3 * steps)])


def test_logs_are_means_over_logging_steps(tmp_path):
    trainer = tiny.trainer(tmp_path, logging_steps=2)
    trainer.train()
    _, logs = by_hand()
    expected = torch.tensor(logs).unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(torch.tensor(logged(trainer.state.log_history)), expected, atol=1e-6, rtol=0)


def test_without_weight_the_own_training_is_bit_equal(tmp_path):
    plugged = tiny.trainer(tmp_path, alignment=0.0, max_grad_norm=0.5)
    plugged.hard_negatives.weights = type(plugged.hard_negatives.weights)(1.0, 0.0, 0.0)
    plugged.train()

    class InOrder(Trainer):
        _get_train_sampler = tiny.InOrder._get_train_sampler

    host = InOrder(
        model=tiny.generator(), args=tiny.arguments(tmp_path, max_grad_norm=0.5), train_dataset=tiny.studies()
    )
    host.train()
    for name, value in host.model.state_dict().items():
        assert torch.equal(plugged.model.state_dict()[name], value), name
    for own, bare in zip(plugged.state.log_history[:-1], host.state.log_history[:-1], strict=True):
        assert (own["loss"], own["grad_norm"]) == (bare["loss"], bare["grad_norm"])


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "lr_scheduler_type": "cosine"}
    whole = tiny.trainer(tmp_path, **options)
    whole.train()
    resumed = tiny.trainer(tmp_path, **options)
    nn.init.zeros_(resumed.hard_negatives.image_head.weight)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(tiny.weights(resumed), tiny.weights(whole), atol=0)
    assert logged(resumed.state.log_history) == logged(whole.state.log_history)

    bare, report = tiny.Generator.from_pretrained(tmp_path / "checkpoint-4", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(value, whole.model.state_dict()[name]) for name, value in bare.state_dict().items())

    (tmp_path / "checkpoint-2" / "hard_negatives.pt").unlink()
    with pytest.raises(UserError, match="expected the weights of the objective"):
        tiny.trainer(tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_objective_has_a_group_without_weight_decay(tmp_path):
    trainer = tiny.trainer(tmp_path)
    *_, group = trainer.create_optimizer().param_groups
    trainer.create_optimizer()
    assert [id(p) for p in group["params"]] == [id(p) for p in trainer.hard_negatives.parameters()]
    assert group["weight_decay"] == 0
    assert len(trainer.optimizer.param_groups) == 3


def test_evaluation_is_the_hosts(tmp_path):
    plugged = tiny.trainer(tmp_path)
    host = Trainer(model=plugged.model, args=tiny.arguments(tmp_path))
    assert plugged.evaluate(tiny.studies())["eval_loss"] == host.evaluate(tiny.studies())["eval_loss"]
    without_labels = [{k: v for k, v in study.items() if k != "labels"} for study in tiny.studies()]
    assert plugged.predict(without_labels).predictions.shape == (16, 5, 11)


def test_deepspeed_is_refused(tmp_path):
    trainer = tiny.trainer(tmp_path)
    trainer.is_deepspeed_enabled = True
    with pytest.raises(
        UserError, match=r"DeepSpeed takes no optimizer .* Tested with hard negatives: one process, DDP"
    ):
        check_strategy(trainer)


@pytest.mark.parametrize(
    "name", ["_set_signature_columns_if_needed", "_save_optimizer_and_scheduler", "_load_optimizer_and_scheduler"]
)
def test_private_methods_that_are_overridden_exist(name):
    assert any(name in vars(base) for base in HardNegativeTrainerMixin.__mro__)
    assert hasattr(Trainer, name), (
        f"transformers {transformers.__version__} has no Trainer.{name}: find what does its work now"
    )


def test_an_objective_that_reads_reports_with_other_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="token_weights and likelihood_margin"):
        HardNegativeTrainer(
            model=tiny.generator(),
            args=tiny.arguments(tmp_path),
            images="image_encoder",
            reports="words",
            hard_negatives=HardNegativeObjective(token_weights=ByText()),
        )


def test_a_path_that_leads_nowhere_is_told(tmp_path):
    with pytest.raises(UserError, match="image_encoder"):
        HardNegativeTrainer(
            model=tiny.generator(), args=tiny.arguments(tmp_path), images="image_encoder", reports="words"
        )


def test_sft_trainer_with_lora(tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    pytest.importorskip("datasets", reason="datasets is not installed")
    plugged = sft(tmp_path, plugged=OF_TEXT)
    before = plugged.hard_negatives.image_head.weight.detach().clone()
    plugged.train()
    bare = sft(tmp_path, trl.SFTTrainer)
    bare.train()
    first, own = plugged.state.log_history[0], bare.state.log_history[0]
    assert first["report_loss"] == pytest.approx(own["loss"], abs=1e-4)
    assert first["negatives_found"] > 0
    assert not torch.equal(before, plugged.hard_negatives.image_head.weight)
    plugged.save_model(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter")
    for name, value in peft.get_peft_model_state_dict(loaded).items():
        assert torch.equal(value, peft.get_peft_model_state_dict(plugged.model)[name]), name
