"""Pre-training without a report decoder: images and reports learn to find each other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.backbones.text import TextEncoder
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.metrics.alignment_scores import AlignmentScores
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import Evaluated, StepOutputs, StudyModel
from hardneg_plugin.objectives import HardNegativeObjective


class _ImageModel(StudyModel[AlignmentScores]):
    """Sees, and has no loss of its own: what the objective is added to."""

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        return {"loss": torch.zeros((), device=self.device), "visual": self.encode_images(batch)}


class ImageReportEncoder(AlignedModel, _ImageModel):
    """An image encoder and a report encoder, trained by an objective alone; recall both ways at validation and test.

    Args:
        text: makes the report encoder, called with `vocab_size`.
        hard_negatives: makes the objective, called with the widths of the two features (`image_width`, `report_width`).
        tokenizer: words to ids; its state is part of every checkpoint.
        arguments: of `StudyModel`: visual, optimizer, grounding, lr_schedule, lr_interval, visual_lr, decay_vectors, channels_last,
            compile.

    There is no report loss: `train/report_loss` is 0.
    """

    def __init__(
        self,
        *,
        text: Callable[..., TextEncoder],
        hard_negatives: Callable[..., HardNegativeObjective],
        tokenizer: Tokenizer,
        **arguments: Any,
    ) -> None:
        # Not the mixin's __init__, which takes a finished objective: here its widths follow from the encoders.
        StudyModel.__init__(self, tokenizer=tokenizer, make_scores=lambda split: AlignmentScores(), **arguments)
        self.text = text(vocab_size=tokenizer.vocab_size)
        self.align(hard_negatives(image_width=self.visual.width, report_width=self.text.width))

    def words_of(self, tokens: Tensor) -> Tensor:
        """States `(B, T - 1, D)` of `tokens[:, 1:]`."""
        states: Tensor = self.text(tokens)
        return states

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Show the loss in the progress bar."""
        self.log("loss", outputs["loss"], prog_bar=True, logger=False, batch_size=len(batch["ids"]))

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Embed images and reports."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Embed images and reports."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, split: Evaluated) -> StepOutputs:
        visual = self.encode_images(batch)
        self.scores_of(split).update(batch, *self.embed_apart(batch, visual.pooled))
        return {"visual": visual}
