"""The checkpoint of the best validation score, or of the latest validation while there is no best one."""

import os
from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class BestCheckpoint(pl.callbacks.ModelCheckpoint):
    """A `ModelCheckpoint` that considers every validation, and that a score of 0 does not hold at the first one.

    An epoch may have several validations (`val_check_interval`), or none (`check_val_every_n_epoch`). At the end of an epoch the
    score may be that of an earlier validation, and the weights are later ones. So the checkpoint is written right after the
    validation. Only a score of training, such as `train/report_loss`, is looked at when the epoch ends.

    In the first epochs a generator states no finding that is right: F1 is 0 in each of them, and Lightning keeps the first of equal
    checkpoints, the one that is trained least. Here each replaces the one before until a score is above 0.

    Args:
        monitor: the score.
        save_on_train_epoch_end: None: for a score of training only.
        arguments: of `ModelCheckpoint`.

    >>> BestCheckpoint(monitor="val/report_loss", dirpath="checkpoints", filename="best").mode
    'min'
    """

    def __init__(self, *, monitor: str, save_on_train_epoch_end: bool | None = None, **arguments: Any) -> None:
        if save_on_train_epoch_end is None:
            save_on_train_epoch_end = monitor.startswith("train/")
        super().__init__(monitor=monitor, save_on_train_epoch_end=save_on_train_epoch_end, **arguments)

    @property
    def state_key(self) -> str:
        """That of a `ModelCheckpoint`, so that runs of earlier versions are resumed with their best score."""
        return super().state_key.replace(type(self).__qualname__, pl.callbacks.ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take on the best score, also where the run folder has been moved since; its files are those of this folder.

        A path of the checkpoint is never taken as it is: Lightning removes the file of a score that is beaten.
        """
        folder = self.dirpath
        if folder is not None:

            def here(path: Any) -> str:
                name = os.path.basename(str(path or ""))
                return os.path.join(folder, name) if name not in ("", ".", "..") else ""

            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            kept = {here(path): score for path, score in (state_dict.get("best_k_models") or {}).items() if here(path)}
            state_dict = {
                **state_dict,
                "dirpath": folder,
                **{name: here(state_dict[name]) for name in paths if name in state_dict},
                "best_k_models": kept,
            }
        super().load_state_dict(state_dict)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether a score is to be kept; scores are the same on all ranks."""
        is_better: bool = super().check_monitor_top_k(trainer, current)
        if is_better or self.mode != "max" or current is None or self.best_model_score is None:
            return is_better
        return bool(current == 0) and bool(self.best_model_score == 0)
