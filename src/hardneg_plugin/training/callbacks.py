"""Callbacks of the training command."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch.distributed as dist

TRAIN, VALIDATE, TEST = range(3)


def mode_of(monitor: str) -> str:
    """How Lightning chooses by a score of this name: the lowest of a loss, the highest of any other.

    >>> mode_of("val/report_loss"), mode_of("val/BLEU-4")
    ('min', 'max')
    """
    return "min" if monitor.endswith("loss") else "max"


class SeedEachStep(pl.Callback):
    """Seed every random generator at each training step from the run's seed, the epoch, the step and the rank.

    A run resumed at any step then draws the same dropout as one that never stopped. Validation and test, where decoding may
    draw words, are seeded once each.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this step on this rank."""
        self._seed(trainer, TRAIN, batch_idx)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed for the split on this rank."""
        self._seed(trainer, VALIDATE)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed for the split on this rank."""
        self._seed(trainer, TEST)

    def _seed(self, trainer: pl.Trainer, stage: int, batch_idx: int = 0) -> None:
        # hashed together: sums would repeat one run's draws in another
        mixed = np.random.SeedSequence((self.seed, trainer.current_epoch, stage, batch_idx, trainer.global_rank))
        pl.seed_everything(int(mixed.generate_state(1)[0]), verbose=False)


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Write one file after every epoch, and within epochs if wanted: what a run goes on from.

    Not a `ModelCheckpoint`, whose `every_n_train_steps` takes the place of the end of the epoch instead of adding to it.

    Args:
        path: the file; each checkpoint replaces the one before.
        every_n_train_steps: also after so many optimizer steps, at least 1; None: after epochs only.
    """

    def __init__(self, path: str | Path, every_n_train_steps: int | None = None) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"Expected `every_n_train_steps` of at least 1 or None, but got {every_n_train_steps}.")
        self.path, self.every_n_train_steps = Path(path), every_n_train_steps
        self._step_written = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the step that a resumed run starts from as written: half an accumulation later its gradients are in no file."""
        self._step_written = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write where an optimizer step has just been taken and it is time."""
        # At the last batch the end of the epoch follows: a run resumed in between would leave out the validation.
        if self.every_n_train_steps is None or trainer.is_last_batch or trainer.global_step == self._step_written:
            return
        if trainer.global_step % self.every_n_train_steps == 0:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, with this epoch's best score already in the other callbacks."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        self._step_written = trainer.global_step
        trainer.save_checkpoint(self.path)


class PlaceInEpoch(pl.Callback):
    """Keep in checkpoints how far the training loader is, and let a resumed run go on there.

    Lightning does that for loaders that have a state, but loses it where the learning-rate schedule asks for the number of
    steps: the loader is then made before the state is read.
    """

    def __init__(self) -> None:
        self._place: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the loader's state."""
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "state_dict"):
            checkpoint["train_dataloader"] = loader.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember it until the loader is there."""
        self._place = checkpoint.get("train_dataloader")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand it to the loader, before the first batch is wanted."""
        loader: Any = trainer.train_dataloader
        if self._place is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._place)
        self._place = None


class SameBuffers(pl.Callback):
    """Before validation, give every rank the buffers of rank 0, as its checkpoint holds them.

    Batch norms keep statistics of what their own rank saw; DDP evens them out at the next training step only.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Broadcast from rank 0."""
        if dist.is_initialized():
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, src=0)
