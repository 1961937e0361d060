"""What a training says before it begins."""

from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from hardneg_plugin.apps.shared.startup_summary import startup_summary, steps_per_epoch, total_steps
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.functional.hardening import Ascent
from hardneg_plugin.objectives import Bank, ByText, HardNegativeObjective, InBatch, InfoNCE, Paired, Queue, Weights
from hardneg_plugin.objectives.method_in_words import method_in_words
from hardneg_plugin.objectives.schedule import Constant


def trainer(**arguments):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", **{"max_epochs": 3, **quiet, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"limit_train_batches": 4},
        {"limit_train_batches": 99},
        {"limit_train_batches": 0.5, "accumulate_grad_batches": 2},
        {"max_steps": 5},
        {"max_epochs": 0},
    ],
    ids=str,
)
def test_steps_are_those_that_lightning_takes(arguments):
    taken = trainer(**arguments, limit_val_batches=0)
    model = BoringModel()
    model.train_dataloader = lambda: DataLoader(torch.zeros(29, 32), batch_size=4)
    planned = total_steps(taken, steps_per_epoch(taken, 29, 4))
    taken.fit(model)
    assert planned == taken.global_step


def test_a_training_without_an_end_has_no_number_of_steps():
    assert total_steps(trainer(max_epochs=-1), 8) is None


def test_processes_share_the_studies():
    two = SimpleNamespace(world_size=2, limit_train_batches=1.0, accumulate_grad_batches=1)
    # DistributedSampler gives each of them 15 of 29
    assert steps_per_epoch(two, 29, 4) == 4


class Model(torch.nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.visual = torch.nn.Linear(1000, 1000)
        self.frozen = torch.nn.Linear(10, 9).requires_grad_(False)
        self.hard_negatives = objective


def summary(objective=None, **arguments):
    data = StudyDataModule(
        PhantomStudies(20, 4, 6, size=32), partial(WordTokenizer.from_reports, min_count=2), batch_size=4, max_length=30
    )
    config = OmegaConf.create(
        {"monitor": "val/CIDEr", "data": {"max_length": 30, "min_count": 2, "datamodule": {"batch_size": 4}}}
    )
    text = startup_summary(config, data, Model(objective), trainer(**arguments), "outputs/a run")
    lines = text.splitlines()
    assert "\x1b" not in text
    assert max(map(len, lines)) <= 110
    return data, {line[:12].strip() or f"more {i}": line[12:] for i, line in enumerate(lines)}


def test_a_dozen_lines_that_say_what_will_happen():
    objective = HardNegativeObjective(image_width=6, report_width=4, width=8)
    data, lines = summary(objective, accumulate_grad_batches=2)
    assert 10 <= len(lines) <= 14
    assert lines["data"] == "PhantomStudies: 20 train, 4 val, 6 test; 2 views a study, 32 x 32 px"
    assert lines["vocabulary"].startswith(
        f"{data.tokenizer.vocab_size} words seen 2 times or more; unknown, of all words: "
    )
    encoded = {name: [data.tokenizer.encode(text) for text in data.source.split(name).reports] for name in SPLITS}
    cut = [f"{sum(len(row) > 30 for row in rows) / len(rows):.1%} {name}" for name, rows in encoded.items()]
    assert lines["references"] == f"cut at 30 tokens (data.max_length): {', '.join(cut)}"
    training_only = 8 * (6 + 4) + 1
    assert lines["model"] == f"Model, 1.0 M parameters, {training_only} of them in training only, 99 frozen"
    assert lines["method"].startswith("HardNegativeObjective: InfoNCE")
    assert lines["device"] == "1 process, cpu, precision 32-true"
    assert lines["batch"] == "8 studies a step (4 x 2 accumulated); contrast over 4 of them"
    assert lines["steps"] == "9, 3 an epoch"
    assert lines["best.ckpt"] == "by val/CIDEr"
    assert lines["run"] == "outputs/a run"


def test_without_an_objective_there_is_no_contrast():
    _, lines = summary()
    assert lines["method"] == "the report loss alone, no hard negatives"
    assert lines["batch"] == "4 studies a step"


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (
            HardNegativeObjective(hardening=None, negatives=InBatch(k=4)),
            "the 4 nearest reports of the batch, not hardened",
        ),
        (HardNegativeObjective(negatives=Queue(size=4096)), "the batch and the latest 4,096 studies, hardened by Arc"),
        (HardNegativeObjective(negatives=Paired()), "mined before the training"),
        (HardNegativeObjective(negatives=Bank()), "the nearest of all training studies"),
        (
            HardNegativeObjective(hardening=Ascent(), schedule=Constant(hardness=0.4)),
            "hardened by Ascent (hardness 0.4)",
        ),
        (
            HardNegativeObjective(alignment=InfoNCE(negative_weight=0), hardening=None, token_weights=ByText()),
            "InfoNCE (weight 0.05), no hard negatives in it, token_weights ByText",
        ),
        (HardNegativeObjective(weights=Weights(alignment=0.5)), "InfoNCE (weight 0.5)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_methods_in_words(objective, told):
    assert told in method_in_words(objective)
