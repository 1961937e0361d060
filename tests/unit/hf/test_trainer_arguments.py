"""Arguments of Trainer and TrainingArguments that change a step, against a loop by hand."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

sys.path.append(str(Path(__file__).parent))
import tiny_generator as tiny
from by_hand import assert_same, by_hand, logged


def smoothed(logits, labels):
    """0.8 of the labels' loss and 0.2 of the mean over all words."""
    found = -logits.log_softmax(-1)
    return (0.8 * found.gather(1, labels[:, None])[:, 0] + 0.2 * found.mean(1)).sum()


def doubled(logits, labels):
    return 2 * nn.functional.cross_entropy(logits, labels, reduction="sum")


def of_outputs(outputs, labels, num_items_in_batch):
    return doubled(outputs["logits"][labels != -100], labels[labels != -100]) / num_items_in_batch


def own_optimizer():
    model = tiny.generator()
    groups = [
        {"params": [p for name, p in model.named_parameters() if "bias" not in name], "weight_decay": 0.1},
        {"params": [p for name, p in model.named_parameters() if "bias" in name]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    return {"model": model, "optimizers": (optimizer, get_linear_schedule_with_warmup(optimizer, 0, 4))}


ARGUMENTS = {
    "bf16": (dict, {"bf16": True}, {"bf16": True}),
    "label smoothing": (dict, {"label_smoothing_factor": 0.2}, {"losses": smoothed}),
    "compute_loss_func": (lambda: {"compute_loss_func": of_outputs}, {}, {"losses": doubled}),
    "optimizers": (own_optimizer, {}, {}),
    "model_init": (lambda: {"model": None, "model_init": lambda: tiny.generator()}, {}, {}),
    "iterable": (lambda: {"train_dataset": tiny.Streamed()}, {}, {}),
}


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_training_is_that_of_a_loop_by_hand(name, accumulated, tmp_path):
    given, options, oracle = ARGUMENTS[name]
    trainer = tiny.trainer(tmp_path, plugged=given(), gradient_accumulation_steps=accumulated, **options)
    trainer.train()
    expected, logs = by_hand(accumulated=accumulated, **oracle)
    assert_same(tiny.weights(trainer), expected)
    torch.testing.assert_close(
        torch.tensor(logged(trainer.state.log_history)), torch.tensor(logs), atol=1e-6, rtol=1e-6
    )


def test_each_training_begins_with_a_new_model_and_objective(tmp_path):
    trainer = tiny.trainer(tmp_path, plugged={"model": None, "model_init": lambda: tiny.generator()})
    trainer.train()
    first = tiny.weights(trainer)
    trainer.train()
    assert_same(tiny.weights(trainer), first, atol=0)
