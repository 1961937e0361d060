"""The plug-in itself: a mixin that adds an objective to the training step of any LightningModule."""

import inspect
import math
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.schedule import Progress

# The mixin stands before a LightningModule in the bases; for a type checker it is one, at run time it must not be.
if TYPE_CHECKING:
    _Host = pl.LightningModule
else:
    _Host = object


class HardNegativeMixin(_Host):
    """Add increasingly hard negatives to an existing report generator.

    Put it before the host among the bases, say in `embed` where the features are, and pass the objective:

        class HardNegativeCaptioner(HardNegativeMixin, Captioner):
            def embed(self, batch, outputs):
                return PairEmbeddings(images=outputs["pooled"], reports=outputs["states"], study_ids=batch["id"])

        model = HardNegativeCaptioner(**host_arguments, hard_negatives=HardNegativeObjective())

    The host keeps its validation, optimizers, callbacks and checkpoints, and runs its forward once. Its `training_step` returns
    None, a scalar or a mapping with "loss"; whatever else it returns reaches `embed`, still attached to the graph. The total is
    `weights.report * loss + weights.alignment * alignment_loss + weights.separation * separation_loss`. Logged under `train/`:
    report_loss, alignment_loss, separation_loss, hardness, positive_similarity, negative_similarity (mined),
    hardened_similarity, false_negative_share.

    Args:
        hard_negatives: the objective; all other arguments go to the host. Left out of saved hyperparameters.

    Raises:
        UserError: at the start of training, where the host optimises manually, no optimizer holds the objective's parameters,
            or its schedule counts in fractions of a training without an end.
    """

    hard_negatives: HardNegativeObjective

    def __init__(self, *args: Any, hard_negatives: HardNegativeObjective, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hard_negatives = hard_negatives

    def embed(self, batch: Any, outputs: Any) -> PairEmbeddings:
        """Pooled image and report features of a batch, attached to the graph; `outputs` is what the host's step returned."""
        raise NotImplementedError(
            f"{type(self).__name__} must define embed(self, batch, outputs) -> PairEmbeddings(images=(B, D), reports=(B, D), ...)."
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The host's step with the objective's terms added to its loss."""
        outputs = super().training_step(*args, **kwargs)
        if outputs is None:  # Lightning's way to skip a batch
            return None
        report_loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        pairs = self.embed(args[0] if args else kwargs["batch"], outputs)
        terms = self.hard_negatives(pairs, self._progress())
        weights = self.hard_negatives.weights
        loss = (
            weights.report * report_loss
            + weights.alignment * terms.alignment_loss
            + weights.separation * terms.separation_loss
        )
        losses = {
            "report_loss": report_loss,
            "alignment_loss": terms.alignment_loss,
            "separation_loss": terms.separation_loss,
        }
        for name, value in {**losses, **terms.logs}.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(pairs.images))
        return {**outputs, "loss": loss} if isinstance(outputs, Mapping) else loss

    def on_fit_start(self) -> None:
        """Check that the objective can be trained, before the first step."""
        super().on_fit_start()
        if not self.automatic_optimization:
            raise UserError(
                f"{type(self).__name__} optimises manually, but HardNegativeMixin adds to the loss that training_step returns: "
                "set automatic_optimization to True, or call self.hard_negatives(pairs, progress) in your own step."
            )
        held = {
            id(p) for optimizer in self.trainer.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        left_out = [name for name, p in self.hard_negatives.named_parameters() if p.requires_grad and id(p) not in held]
        if left_out:
            raise UserError(
                f"No optimizer holds the objective's parameters {', '.join(left_out)}: let {type(self).__name__}."
                "configure_optimizers pass self.parameters(), or self.hard_negatives.parameters() as a group of their own."
            )
        if self.hard_negatives.schedule.unit == "fraction" and math.isinf(self.trainer.estimated_stepping_batches):
            raise UserError(
                "schedule.unit is fraction, but training has no end: set trainer.max_epochs or max_steps, "
                "or count in epoch or step."
            )

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """As the host's, without the objective: its weights are in the state dict, and a module is no hyperparameter."""
        ignore = [ignore] if isinstance(ignore, str) else list(ignore or ())
        current = inspect.currentframe()
        frame = frame or (current.f_back if current else None)
        super().save_hyperparameters(*args, ignore=[*ignore, "hard_negatives"], frame=frame, logger=logger)

    def _progress(self) -> Progress:
        total = self.trainer.estimated_stepping_batches
        step = self.trainer.global_step
        fraction = 0.0 if math.isinf(total) else min(1.0, step / max(total, 1))
        return Progress(step=step, epoch=self.trainer.current_epoch, fraction=fraction)
