"""The callback that stops a training that diverges, before it replaces a checkpoint."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from hardneg_plugin.divergence import FiniteSteps, not_finite


class StopDiverged(pl.Callback):
    """Stop on all ranks once loss or gradient are not finite, and never write a checkpoint that is not finite.

    `patience` optimizer steps in a row whose loss or gradient norm is not finite end the training. Gradients do not count while
    the `GradScaler` of fp16 skips such steps to lower its scale; below a scale of 1 they do. Before each validation the weights are
    checked, and before each checkpoint all that it holds: one with NaN or infinity is not written, and the training ends. What was
    not finite when training began, such as a mask of -inf, does not count.

    Whether a value is finite is found out on the device, and read from there every `every_n_steps` optimizer steps. The norm of the
    gradients is computed once more for that.

    Args:
        patience, every_n_steps: as of `FiniteSteps`.
        ids: the key of a batch under which it has the ids of its studies, for the message.

    Raises:
        UserError: a number is out of range.
        DivergedError: while training, on all ranks: with step, epoch and the ids of the studies.

    >>> callback = StopDiverged(patience=1)
    """

    def __init__(self, patience: int = 3, every_n_steps: int = 10, ids: str = "ids") -> None:
        self._ids = ids
        self._steps = FiniteSteps(patience, every_n_steps)
        self._never_finite: set[str] = set()
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is not finite already."""
        self._never_finite = set(not_finite(pl_module.state_dict()))
        self._step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradients, which are unscaled and not clipped yet."""
        self._steps.add_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss of the batch, and look if it is time."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        ids = batch.get(self._ids, ()) if isinstance(batch, Mapping) else ()
        self._steps.add_batch(loss if isinstance(loss, Tensor) else None, ids)
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._steps.end(trainer.global_step, trainer.current_epoch + 1)
            if self._steps.is_due:
                self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights, too, before they are validated."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._check(trainer, dict(pl_module.named_parameters()))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write what is not finite."""
        self._check(trainer, {**checkpoint["state_dict"], "optimizers": checkpoint.get("optimizer_states", [])})

    def _look(self, trainer: pl.Trainer) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._steps.look(forgives_gradients=scaler is not None and scaler.get_scale() >= 1)

    def _check(self, trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
        self._look(trainer)
        when = f"after step {trainer.global_step} in epoch {trainer.current_epoch + 1}"
        self._steps.check(state, self._never_finite, trainer.strategy.root_device, when)
