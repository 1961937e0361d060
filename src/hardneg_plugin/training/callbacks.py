"""Callbacks of the training command."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn

from hardneg_plugin.metrics.directions import direction_of

TRAIN, VALIDATE, TEST = range(3)


def mode_of(monitor: str) -> Literal["min", "max"]:
    """The mode of `ModelCheckpoint` for a score: "min" where lower is better, "max" for all others.

    >>> mode_of("val/report_loss"), mode_of("val/BLEU-4")
    ('min', 'max')
    """
    return "min" if direction_of(monitor) == "lower" else "max"


class StepSeeding(pl.Callback):
    """Seed all random generators at each training step, from the run's seed, epoch, step and rank.

    A run resumed at any step then draws the same numbers as an uninterrupted one. Validation and test, where decoding may sample,
    are seeded once each.

    Args:
        seed: of the run, >= 0.
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
        # hashed: sums would repeat the numbers of one run in another
        mixed = np.random.SeedSequence((self.seed, trainer.current_epoch, stage, batch_idx, trainer.global_rank))
        pl.seed_everything(int(mixed.generate_state(1)[0]), verbose=False)


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Write the checkpoint to resume from after every epoch, and optionally within epochs.

    `every_n_train_steps` of a `ModelCheckpoint` replaces the checkpoint at the end of the epoch; here it adds to it. Where a
    validation follows the step, it is written after that: a run that is resumed before it would skip it.

    Args:
        path: of the file; each checkpoint replaces the previous one.
        every_n_train_steps: optimizer steps between further checkpoints, >= 1; None: after epochs only.

    Raises:
        ValueError: `every_n_train_steps` is out of range.
    """

    def __init__(self, path: str | Path, every_n_train_steps: int | None = None) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(
                f"Expected `every_n_train_steps` to be a positive integer or None, but got {every_n_train_steps}."
            )
        self.path, self.every_n_train_steps = Path(path), every_n_train_steps
        self._step_written = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the first step of a resumed run as written: a checkpoint amid an accumulation would lack its gradients."""
        self._step_written = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write after an optimizer step, if it is due."""
        if self._is_due(trainer):
            loop = trainer.fit_loop
            assert loop._data_fetcher is not None
            if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # Lightning has no public way to ask
                self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was due before a validation within the epoch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._is_due(trainer):
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, once the other callbacks hold the best score of this epoch."""
        self._write(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        # not at the last batch: the end of the epoch follows
        if self.every_n_train_steps is None or trainer.is_last_batch or trainer.global_step == self._step_written:
            return False
        return trainer.global_step % self.every_n_train_steps == 0

    def _write(self, trainer: pl.Trainer) -> None:
        self._step_written = trainer.global_step
        trainer.save_checkpoint(self.path)


class RecordProvenance(pl.Callback):
    """Write into every checkpoint what it came from.

    Args:
        provenance: plain values.
    """

    def __init__(self, provenance: dict[str, Any]) -> None:
        self.provenance = provenance

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it, under "provenance"."""
        checkpoint["provenance"] = self.provenance


class LoaderState(pl.Callback):
    """Save the state of the training loader in checkpoints, and restore it in a resumed run.

    Lightning does so for stateful loaders, but not if the learning-rate schedule asks for the number of steps: then the loader is
    created before its state is read.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

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
        """Keep it until the loader exists."""
        self._state = checkpoint.get("train_dataloader")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore it before the first batch."""
        loader: Any = trainer.train_dataloader
        if self._state is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._state)
        self._state = None


class BufferBroadcast(pl.Callback):
    """Broadcast the buffers of rank 0 before validation, so that all ranks validate the model of the checkpoint.

    Batch norms hold the statistics of their local batches; DDP synchronises them only at the next training step.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Broadcast from rank 0."""
        if dist.is_initialized():
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, src=0)
