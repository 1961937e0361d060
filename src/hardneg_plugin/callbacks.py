"""Callbacks of the training command."""

import pytorch_lightning as pl


class SeedEachEpoch(pl.Callback):
    """Seed every random generator at the start of each training epoch from the run's seed, the epoch and the rank.

    A run resumed at an epoch then draws the same dropout as one that never stopped.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed for this epoch on this rank."""
        # Odd multipliers keep the seeds of neighbouring runs, epochs and ranks apart.
        mixed = (self.seed * 1_000_003 + trainer.current_epoch) * 10_007 + trainer.global_rank
        pl.seed_everything(mixed % 2**32, verbose=False)
