"""The base of models over studies: a visual extractor, a tokenizer, an optimizer, and scores of the splits."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypedDict, TypeVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual_features import ViewEncoder, VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import Tokenizer, check_vocabulary
from hardneg_plugin.errors import UserError, require_number
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.grounding import Grounding
from hardneg_plugin.metrics.study_metric import StudyMetric
from hardneg_plugin.models.optim import parameter_groups

Evaluated = Literal["val", "test"]
Scores = TypeVar("Scores", bound=StudyMetric[Any])
Model = TypeVar("Model", bound=nn.Module)

PROGRESS_BAR = ("report_loss", "BLEU-4", "CIDEr", "findings_F1", "findings_attributes_F1", "R@5")
"""Scores in the line after each epoch, beside the loss."""


def move_to_device(model: Model, device: str | torch.device | None) -> Model:
    """The model on a device.

    Args:
        model: moved in place.
        device: such as "cuda:1"; None: a GPU if there is one, else the CPU.

    Raises:
        UserError: torch has no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that does not exist
        raise UserError(f"device={device}: {str(error).splitlines()[0]}") from error


class _VisualOutputs(TypedDict):
    visual: VisualFeatures


class StepOutputs(_VisualOutputs, total=False):
    """Outputs of a step on B studies; a mapping, as Lightning expects it."""

    loss: Tensor
    """Scalar with gradient; every training step has it."""
    losses: Tensor
    """`(B, 2)`, detached: summed loss of each report and its number of tokens."""
    token_losses: TokenLosses
    """Of the reports with their images, attached to the graph."""
    paired_visual: VisualFeatures
    """Of the paired studies, where reports are read with their images."""
    states: Tensor
    """`(B, T - 1, width)`: hidden states of the report decoder, teacher-forced."""


class StudyModel(pl.LightningModule, Generic[Scores]):
    """A LightningModule over batches of studies.

    Args:
        visual: images to patch features.
        tokenizer: text to token ids; every checkpoint holds its state.
        optimizer: makes the optimizer, called with parameter groups. Vectors (biases, norms, the logit scale) are exempt from
            weight decay unless `decay_vectors`.
        make_scores: makes the scores of a split.
        grounding: makes the grounded-knowledge module, called with the width of the patches; None: no entities.
        lr_schedule: makes the learning-rate schedule, called with the optimizer, and with `total_steps` for `lr_interval="step"`;
            None: a constant rate.
        lr_interval: step the schedule every optimizer step, or every epoch.
        visual_lr: learning rate of the visual extractor's network; None: that of the optimizer.
        decay_vectors: apply weight decay to vectors, too.
        channels_last: keep the weights of the visual extractor in `torch.channels_last`, which is faster on a GPU.
        compile: run the visual extractor through torch.compile.
    """

    def __init__(
        self,
        *,
        visual: ViewEncoder,
        tokenizer: Tokenizer,
        optimizer: Callable[..., Optimizer],
        make_scores: Callable[[Evaluated], Scores],
        grounding: Callable[[int], Grounding] | None = None,
        lr_schedule: Callable[..., LRScheduler] | None = None,
        lr_interval: Literal["step", "epoch"] = "step",
        visual_lr: float | None = None,
        decay_vectors: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if channels_last:
            visual = visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.visual = visual if grounding is None else GroundedVisual(visual, grounding)
        self.tokenizer = tokenizer
        self._make_optimizer, self._make_lr_schedule = optimizer, lr_schedule
        if visual_lr is not None:
            require_number(visual_lr, "model.visual_lr", "a learning rate > 0", above=0)
        self._lr_interval, self._visual_lr, self._decay_vectors = lr_interval, visual_lr, decay_vectors
        self.scores = nn.ModuleDict({"val": make_scores("val"), "test": make_scores("test")})
        if compile:
            self.visual.network.compile()

    def encode_images(self, batch: Batch) -> VisualFeatures:
        """Visual features of a batch of B studies; a grounded extractor also reads the boxes of the batch."""
        boxes = {"boxes": batch["boxes"]} if "boxes" in batch and isinstance(self.visual, GroundedVisual) else {}
        features: VisualFeatures = self.visual(batch["images"], batch["view_mask"], **boxes)
        return features

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> tuple[Tensor, Tensor]:
        """Token rows `(N, T)` int64 as in `Batch`, and their mask `(N, T)` bool.

        Args:
            texts: N >= 1.
            max_length: tokens kept of each; None: all.
        """
        rows = [torch.tensor(self.tokenizer.encode(text)[:max_length]) for text in texts]
        tokens = pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        return tokens.to(self.device), mask.to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Update the scores of the split."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Update the scores of the split."""
        return self._evaluate(batch, "test")

    def on_validation_epoch_start(self) -> None:
        """Reset the scores of the split."""
        self.scores_of("val").reset()

    def on_test_epoch_start(self) -> None:
        """Reset the scores of the split."""
        self.scores_of("test").reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the split over all ranks."""
        if not self.trainer.sanity_checking:
            self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the split over all ranks."""
        self._log_scores("test")

    def configure_optimizers(self) -> Any:
        """One optimizer over all parameters, with its schedule."""
        optimizer = self._make_optimizer(
            parameter_groups(self.named_parameters(), visual_lr=self._visual_lr, decay_vectors=self._decay_vectors)
        )
        if self._make_lr_schedule is None:
            return optimizer
        arguments = {}
        if self._lr_interval == "step":
            total_steps = self.trainer.estimated_stepping_batches
            if math.isinf(total_steps):
                raise UserError(
                    "The learning-rate schedule needs the total number of steps, but training has no end: set trainer.max_epochs "
                    "or trainer.max_steps, or lr_schedule=constant."
                )
            arguments["total_steps"] = int(total_steps)
        schedule = self._make_lr_schedule(optimizer, **arguments)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self._lr_interval}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, also with a fused optimizer in bf16.

        Lightning refuses to clip with a fused optimizer in mixed precision, as the optimizer unscales gradients itself; in bf16
        nothing is scaled.
        """
        if self.trainer.precision != "bf16-mixed":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(self.trainer.precision_plugin, optimizer, gradient_clip_val, algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the tokenizer."""
        checkpoint["tokenizer"] = self.tokenizer.state()
        checkpoint["backbone"] = {}  # a model with a decoder puts its settings here

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights are of the same vocabulary."""
        check_vocabulary(checkpoint, self.tokenizer)

    def scores_of(self, split: Evaluated) -> Scores:
        """The scores of a split, as of the last validation or test."""
        return cast(Scores, self.scores[split])

    def _evaluate(self, batch: Batch, split: Evaluated) -> StepOutputs:
        """A step of validation or test, which updates the scores of the split."""
        raise NotImplementedError

    def _log_scores(self, split: Evaluated) -> None:
        # the same on every rank already: no sync_dist
        for name, value in self.scores_of(split).compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name in PROGRESS_BAR)
