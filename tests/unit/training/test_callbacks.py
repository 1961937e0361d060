"""When the last checkpoint is written, and what the seeds of a step depend on."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from hardneg_plugin.training.callbacks import LastCheckpoint, StepSeeding


class Recorded(LastCheckpoint):
    def _write(self, trainer):
        super()._write(trainer)
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        self.written = [*getattr(self, "written", []), (trainer.current_epoch, progress.ready, trainer.global_step)]


def fit(path, every, epochs, **arguments):
    last = Recorded(path, every)
    model = BoringModel()
    model.train_dataloader = lambda: DataLoader(torch.zeros(10, 32))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[last],
    )
    trainer.fit(model, **arguments)
    return last.written


def test_written_after_optimizer_steps_within_an_epoch_and_after_each_epoch(tmp_path):
    path = tmp_path / "deep" / "last.ckpt"
    # batches come in pairs to an optimizer step, five of them to an epoch; epoch 0 ends at its tenth batch
    assert fit(path, None, 2) == [(0, 10, 5), (1, 10, 10)]
    assert fit(path, 2, 2) == [(0, 4, 2), (0, 8, 4), (0, 10, 5), (1, 2, 6), (1, 6, 8), (1, 10, 10)]
    # a resumed run does not begin by writing in the middle of an accumulation
    assert fit(path, 2, 3, ckpt_path=path) == [(2, 4, 12), (2, 8, 14), (2, 10, 15)]


def test_steps_must_be_counted(tmp_path):
    with pytest.raises(ValueError, match="every_n_train_steps"):
        LastCheckpoint(tmp_path / "last.ckpt", 0)


def test_every_step_of_every_epoch_and_rank_draws_its_own_numbers_again():
    def draw(seed=1, epoch=0, rank=0, step=0, stage="train"):
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        callback = StepSeeding(seed)
        if stage == "train":
            callback.on_train_batch_start(trainer, None, None, step)
        else:
            getattr(callback, f"on_{stage}_epoch_start")(trainer, None)
        return torch.rand(()).item()

    different = [{}, {"seed": 2}, {"epoch": 1}, {"rank": 1}, {"step": 1}, {"stage": "validation"}, {"stage": "test"}]
    assert len({draw(**settings) for settings in different}) == len(different)
    assert [draw(**settings) for settings in different] == [draw(**settings) for settings in different]
