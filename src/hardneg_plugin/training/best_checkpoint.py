"""The checkpoint of the best validation score, or of the latest epoch while there is no best one."""

import pytorch_lightning as pl
from torch import Tensor


class BestCheckpoint(pl.callbacks.ModelCheckpoint):
    """A `ModelCheckpoint` that a score of 0 does not hold at the first epoch.

    In the first epochs a generator states no finding that is right: F1 is 0 in each of them, and Lightning keeps the first of equal
    checkpoints, the one that is trained least. Here each replaces the one before until a score is above 0. The arguments are those
    of `ModelCheckpoint`.
    """

    @property
    def state_key(self) -> str:
        """That of a `ModelCheckpoint`, so that runs of earlier versions are resumed with their best score."""
        return super().state_key.replace(type(self).__qualname__, pl.callbacks.ModelCheckpoint.__qualname__, 1)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether a score is to be kept; scores are the same on all ranks."""
        is_better: bool = super().check_monitor_top_k(trainer, current)
        if is_better or self.mode != "max" or current is None or self.best_model_score is None:
            return is_better
        return bool(current == 0) and bool(self.best_model_score == 0)
