"""Which epoch the best checkpoint is of, and that a run of an earlier version is resumed with its best score."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel

from hardneg_plugin.runs.checkpoint import epoch_of
from hardneg_plugin.training.best_checkpoint import BestCheckpoint


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
    return epoch_of(folder / "best.ckpt")


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
