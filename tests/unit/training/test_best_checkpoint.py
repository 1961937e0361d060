"""Which validation the best checkpoint is of, and that a run of an earlier version is resumed with its best score."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel

from hardneg_plugin.runs.checkpoint import moment_of
from hardneg_plugin.training.best_checkpoint import BestCheckpoint
from hardneg_plugin.training.callbacks import LastCheckpoint


class Scored(BoringModel):
    """Logs a given score after each epoch."""

    def __init__(self, scores):
        super().__init__()
        self.of_epochs = scores

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val/score", self.of_epochs[self.current_epoch])
            self.log("val/loss", self.of_epochs[self.current_epoch])


def trained(folder, scores, kind=BestCheckpoint, epochs=None, ckpt_path=None, monitor="val/score", mode="max"):
    """The epoch of the best checkpoint, from 1."""
    best = kind(dirpath=folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs or len(scores),
        limit_train_batches=1,
        limit_val_batches=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best],
    )
    trainer.fit(Scored([torch.tensor(score) for score in scores]), ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "last.ckpt")
    return moment_of(folder / "best.ckpt").epoch


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.0, 0.0, 0.0], 3),  # nothing right yet: the one that is trained longest
        ([0.0, 0.0, 0.2, 0.0], 3),
        ([0.2, 0.2, 0.1], 1),  # of equal scores above 0 the first, as Lightning has it
        ([0.1, 0.3, 0.2], 2),
    ],
)
def test_the_best_epoch_or_the_latest_while_the_score_is_zero(scores, best, tmp_path):
    assert trained(tmp_path, scores) == best


def test_a_loss_of_zero_is_the_best_there_is(tmp_path):
    assert trained(tmp_path, [0.5, 0.0, 0.0], monitor="val/loss", mode="min") == 2


def test_a_run_that_began_with_the_callback_of_lightning_goes_on_with_its_best_score(tmp_path):
    scores = [0.1, 0.4, 0.3, 0.2]
    assert trained(tmp_path, scores, kind=ModelCheckpoint, epochs=2) == 2
    assert trained(tmp_path, scores, ckpt_path=tmp_path / "last.ckpt") == 2


class ScoredOften(BoringModel):
    """Logs the given score of each validation, by the optimizer steps before it."""

    def __init__(self, scores):
        super().__init__()
        self.by_step, self.seen = scores, []

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.seen.append(self.global_step)
            self.log("val/loss", torch.tensor(self.by_step.get(self.global_step, 9.0)))


def fit_often(folder, scores, steps, ckpt_path=None, every_n_train_steps=None, **options):
    """Train on epochs of 6 steps; the steps at which it was validated."""
    best = BestCheckpoint(dirpath=folder, filename="best", monitor="val/loss", mode="min", enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_train_batches=6,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LastCheckpoint(folder / "last.ckpt", every_n_train_steps), best],
        **{"limit_val_batches": 1, "check_val_every_n_epoch": 1} | options,
    )
    model = ScoredOften(scores)
    trainer.fit(model, ckpt_path=ckpt_path)
    return model.seen


def step_of(path):
    return moment_of(path).step


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"val_check_interval": 3}, {3: 0.2, 6: 0.3, 9: 0.4, 12: 0.5}),
        ({"val_check_interval": 3}, {3: 0.5, 6: 0.4, 9: 0.1, 12: 0.3}),
        ({"val_check_interval": 0.5}, {3: 0.2, 6: 0.3, 9: 0.4, 12: 0.5}),
        ({"val_check_interval": 4}, {4: 0.2, 10: 0.3}),  # none at the end of an epoch
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, {4: 0.3, 8: 0.2, 12: 0.4}),  # across epochs
        ({"check_val_every_n_epoch": 2}, {12: 0.2}),  # none in the first epoch
        ({"limit_val_batches": 2, "val_check_interval": 2}, {2: 0.3, 4: 0.1, 6: 0.2, 8: 0.2, 10: 0.3, 12: 0.4}),
    ],
)
def test_every_validation_counts_wherever_it_is_in_an_epoch(tmp_path, options, scores):
    assert fit_often(tmp_path, scores, 12, **options) == list(scores)
    assert step_of(tmp_path / "best.ckpt") == min(scores, key=scores.get)


def test_an_epoch_without_a_validation_does_not_move_the_checkpoint_on(tmp_path):
    """A score of 0 is replaced by the next one of 0, but only by that of a validation."""
    best = BestCheckpoint(dirpath=tmp_path, filename="best", monitor="val/score", mode="max")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=1,
        limit_val_batches=1,
        check_val_every_n_epoch=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best],
    )
    trainer.fit(Scored([torch.tensor(0.0)] * 3))
    assert moment_of(tmp_path / "best.ckpt").epoch == 2


def test_a_score_of_training_is_looked_at_after_each_epoch(tmp_path):
    assert BestCheckpoint(monitor="train/report_loss")._save_on_train_epoch_end is True
    assert BestCheckpoint(monitor="val/report_loss")._save_on_train_epoch_end is False


@pytest.mark.parametrize("stop", range(1, 12))
@pytest.mark.parametrize("interval", [2, 3])
def test_a_run_resumed_anywhere_has_the_validations_and_the_best_of_one_that_never_stopped(tmp_path, stop, interval):
    scores = {2: 0.5, 3: 0.4, 4: 0.2, 6: 0.3, 8: 0.1, 9: 0.3, 10: 0.3, 12: 0.35}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"val_check_interval": interval, "every_n_train_steps": 1}
    unbroken = fit_often(whole, scores, 12, **options)
    first = fit_often(broken, scores, stop, **options)
    assert step_of(broken / "last.ckpt") == stop
    second = fit_often(broken, scores, 12, ckpt_path=broken / "last.ckpt", **options)
    assert first + second == unbroken
    assert step_of(broken / "best.ckpt") == step_of(whole / "best.ckpt")


@pytest.mark.parametrize("interval", [2, 3, 6])
def test_a_run_can_be_resumed_from_its_best_checkpoint_too(tmp_path, interval):
    scores = {2: 0.1, 3: 0.1, 6: 0.1}
    unbroken = fit_often(tmp_path / "whole", scores, 12, val_check_interval=interval)
    best = tmp_path / "whole" / "best.ckpt"
    assert step_of(best) == interval
    rest = fit_often(tmp_path / "rest", scores, 12, ckpt_path=best, val_check_interval=interval)
    assert [interval, *rest] == unbroken


def test_a_run_that_was_moved_keeps_its_best_score(tmp_path):
    fit_often(tmp_path / "run", {6: 0.1}, 6)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert fit_often(moved, {12: 0.2}, 12, ckpt_path=moved / "last.ckpt") == [12]
    assert step_of(moved / "best.ckpt") == 6
    assert fit_often(moved, {18: 0.05}, 18, ckpt_path=moved / "last.ckpt") == [18]
    assert step_of(moved / "best.ckpt") == 18
    assert {path.name for path in moved.iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("place", ["../victim", "victim", "/", "."])
def test_a_checkpoint_names_no_file_to_be_removed(place, tmp_path):
    """A better score removes the file of the one before, which a checkpoint of someone else could call anything."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    victim = (folder / place).resolve() if place != "/" else tmp_path / "victim"
    if not victim.exists():
        victim.write_text("precious")
    assert trained(folder, [0.1]) == 1
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    (key,) = (key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
    state = checkpoint["callbacks"][key]
    path = f"{folder}/{place}" if place != "/" else str(victim)
    state |= {"kth_best_model_path": path, "best_k_models": {path: state["best_model_score"]}, "best_model_path": path}
    torch.save(checkpoint, folder / "last.ckpt")
    assert trained(folder, [0.1, 0.2], ckpt_path=folder / "last.ckpt") == 2
    assert victim.exists() or victim.parent == folder
