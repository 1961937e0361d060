"""What must hold before the first step of a training with hard negatives."""

import inspect
import math
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import warn_of_batch_norm
from hardneg_plugin.plugin.signatures import names_in_own_methods


def check_trainable(host: Any, chunks: Chunks) -> None:
    """Check, at the start of training, that the objective of a plugged LightningModule can be trained.

    Args:
        host: with a trainer and its `hard_negatives`.
        chunks: 1: the step as it is.

    Raises:
        UserError: the host optimises manually without `with_hard_negatives` or with chunks, the objective reads reports with
            images again in chunks, the host takes `dataloader_iter`, no optimizer holds the parameters of the objective, or its
            schedule counts in fractions of a training without an end.
    """
    name = type(host).__name__
    if "dataloader_iter" in inspect.signature(host.training_step).parameters:
        raise UserError(
            f"{name}.training_step takes dataloader_iter, so it fetches batches itself, but hard negatives need the batch: "
            "let it take (self, batch) or (self, batch, batch_idx)."
        )
    if not host.automatic_optimization and not names_in_own_methods(type(host), "with_hard_negatives"):
        raise UserError(
            f"{name} optimises manually, but none of its methods adds the terms of the objective: "
            "set automatic_optimization to True, or call loss = self.with_hard_negatives(loss, batch, outputs) "
            "in its training_step before manual_backward."
        )
    if chunks != 1:
        if host.hard_negatives.reads_reports:
            raise UserError(
                f"chunks={chunks}: token_weights, likelihood_margin and edit_margin read reports with images of the whole batch, "
                "of which chunks keep a part: set chunks to 1."
            )
        if not host.automatic_optimization:
            raise UserError(f"chunks={chunks}: {name} optimises manually, within its step: set chunks to 1.")
        warn_of_batch_norm(host)
    _check_optimizers(host)
    if host.hard_negatives.schedule.unit == "fraction" and math.isinf(host.trainer.estimated_stepping_batches):
        raise UserError(
            "schedule.unit is fraction, but training has no end: set trainer.max_epochs or max_steps, or count in epoch or step."
        )


def check_reads_edits(host: Any, reads: bool) -> None:
    """Check that a host can read edited copies of its reports.

    Args:
        host: the plugged module.
        reads: whether its own class has a method for it.

    Raises:
        UserError: it has none.
    """
    if not reads:
        raise UserError(
            f"edit_margin reads edited copies of each report: let {type(host).__name__} define edited_token_losses(self, batch, "
            "outputs, changes) -> TokenLosses, or set edit_margin to None."
        )


def _check_optimizers(host: Any) -> None:
    held = {id(p) for optimizer in host.trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    left_out = [name for name, p in host.hard_negatives.named_parameters() if p.requires_grad and id(p) not in held]
    # if nothing at all is trained, Lightning has warned already
    if left_out and not held.isdisjoint(id(p) for p in host.parameters()):
        raise UserError(
            f"No optimizer holds the objective's parameters {', '.join(left_out)}: let {type(host).__name__}."
            "configure_optimizers pass self.parameters(), or self.hard_negatives.parameters() in a further group."
        )
