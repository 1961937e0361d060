"""What every model over studies shares: a visual extractor, a vocabulary, an optimizer, and scores of its splits."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypedDict, TypeVar, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual import VisualExtractor, VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import Tokenizer, check_vocabulary
from hardneg_plugin.errors import UserError
from hardneg_plugin.grounding import Grounding
from hardneg_plugin.metrics.study_metric import StudyMetric
from hardneg_plugin.models.optim import clip_gradients, parameter_groups

Evaluated = Literal["val", "test"]
Scores = TypeVar("Scores", bound=StudyMetric[Any])
Model = TypeVar("Model", bound=nn.Module)

PROGRESS_BAR = ("BLEU-4", "CIDEr", "findings_F1", "R@5")
"""Scores that the progress bar shows beside the loss."""


def move_to_device(model: Model, device: str | torch.device | None) -> Model:
    """The model on `device`; None: on a GPU where there is one.

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
    """What a step returns for B studies, and `AlignedModel.embed` reads: a mapping, as Lightning asks for."""

    loss: Tensor
    """Scalar, with its graph; a training step always has it."""
    losses: Tensor
    """`(B, 2)`, detached: summed loss of each report and its number of tokens."""
    states: Tensor
    """`(B, T - 1, width)`: hidden states of the report decoder, teacher-forced."""


class StudyModel(pl.LightningModule, Generic[Scores]):
    """A LightningModule over batches of studies.

    Args:
        visual: images to patch features.
        tokenizer: words to ids; its state is part of every checkpoint.
        optimizer: makes the optimizer out of parameter groups. Weights of one dimension (biases, norms, the logit scale)
            are exempt from weight decay unless `decay_vectors`.
        make_scores: makes the scores of a split.
        grounding: makes the module that looks for what may be found, called with the width of the patches: what it finds goes on
            with them. None: there is none.
        lr_schedule: makes the learning-rate schedule out of the optimizer; None keeps the rate. With
            `lr_interval="step"` it is called with `total_steps` too and stepped every optimizer step, else every epoch.
        visual_lr: learning rate of the visual extractor's network; None: that of the optimizer.
        decay_vectors: weight decay on weights of one dimension too.
        channels_last: keep the visual extractor's weights channels last, which convolutions on a GPU prefer.
        compile: run the visual extractor through torch.compile.
    """

    def __init__(
        self,
        *,
        visual: VisualExtractor,
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
        self._lr_interval, self._visual_lr, self._decay_vectors = lr_interval, visual_lr, decay_vectors
        self.scores = nn.ModuleDict({"val": make_scores("val"), "test": make_scores("test")})
        if compile:
            self.visual.network.compile()

    def encode_images(self, batch: Batch) -> VisualFeatures:
        """What the visual extractor makes of a batch's images, and of its boxes where it looks at such."""
        boxes = {"boxes": batch["boxes"]} if "boxes" in batch and isinstance(self.visual, GroundedVisual) else {}
        features: VisualFeatures = self.visual(batch["images"], batch["view_mask"], **boxes)
        return features

    def tokens_of(self, texts: Sequence[str], max_length: int | None = None) -> tuple[Tensor, Tensor]:
        """Token rows `(N, T)` of N >= 1 texts as a batch has them, each cut to `max_length`, and their mask `(N, T)`."""
        rows = [torch.tensor(self.tokenizer.encode(text)[:max_length]) for text in texts]
        tokens = pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        return tokens.to(self.device), mask.to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Start the scores of a split anew."""
        self.scores_of("val").reset()

    def on_test_epoch_start(self) -> None:
        """Start the scores of a split anew."""
        self.scores_of("test").reset()

    def on_validation_epoch_end(self) -> None:
        """Score the split once, over all ranks."""
        if not self.trainer.sanity_checking:
            self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Score the split once, over all ranks."""
        self._log_scores("test")

    def configure_optimizers(self) -> Any:
        """One optimizer over all parameters, and its schedule."""
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
                    "The learning-rate schedule counts all steps, but training has no end: set trainer.max_epochs or "
                    "trainer.max_steps, or lr_schedule=constant."
                )
            arguments["total_steps"] = int(total_steps)
        schedule = self._make_lr_schedule(optimizer, **arguments)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self._lr_interval}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """As Lightning does, and with a fused optimizer in bf16 too.

        Lightning refuses to clip under a fused optimizer in mixed precision, since that may unscale gradients by itself; in
        bf16 there is no scale.
        """
        if self.trainer.precision != "bf16-mixed":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the vocabulary with the weights that it indexes."""
        checkpoint["tokenizer"] = self.tokenizer.state()
        checkpoint["backbone"] = {}  # what builds a decoder without other files, where there is one

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that index another vocabulary."""
        check_vocabulary(checkpoint, self.tokenizer)

    def scores_of(self, split: Evaluated) -> Scores:
        """What was measured on a split in the last validation or test."""
        return cast(Scores, self.scores[split])

    def _log_scores(self, split: Evaluated) -> None:
        # the same numbers on every rank already: nothing to synchronise
        for name, value in self.scores_of(split).compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name in PROGRESS_BAR)
