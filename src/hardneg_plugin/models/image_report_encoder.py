"""Pre-training without a report decoder: image encoder and report encoder, aligned by the objective alone."""

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
    """Encodes images; its loss of 0 is what the objective is added to."""

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        return {"loss": torch.zeros((), device=self.device), "visual": self.encode_images(batch)}


class ImageReportEncoder(AlignedModel, _ImageModel):
    """An image encoder and a report encoder, trained by an objective alone; recall both ways at validation and test.

    Args:
        text: makes the report encoder, called with `vocab_size`.
        hard_negatives: makes the objective, called with the widths of the features (`image_width`, `report_width`).
        tokenizer: text to token ids; every checkpoint holds its state.
        chunks: into how many parts each training batch is split, as of `HardNegativeMixin`: more studies than fit at once.
        arguments: of `StudyModel`: visual, optimizer, grounding, lr_schedule, lr_interval, visual_lr, decay_vectors, channels_last,
            compile.

    There is no report loss: `train/report_loss` is 0.

    >>> from functools import partial
    >>> from hardneg_plugin.backbones.visual import VisualExtractor
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> model = ImageReportEncoder(
    ...     visual=VisualExtractor("resnet10t"),
    ...     text=partial(TextEncoder, width=8, heads=2),
    ...     tokenizer=WordTokenizer.from_reports(["heart size is normal", "small effusion"], min_count=1),
    ...     optimizer=torch.optim.AdamW,
    ...     hard_negatives=partial(HardNegativeObjective, width=4),
    ... ).eval()
    >>> model.embed_texts(["heart size is normal", "effusion"]).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        *,
        text: Callable[..., TextEncoder],
        hard_negatives: Callable[..., HardNegativeObjective],
        tokenizer: Tokenizer,
        chunks: int = 1,
        **arguments: Any,
    ) -> None:
        # not the mixin's __init__, which takes an objective: here its widths depend on the encoders
        StudyModel.__init__(self, tokenizer=tokenizer, make_scores=lambda split: AlignmentScores(), **arguments)
        self.text = text(vocab_size=tokenizer.vocab_size)
        self.set_objective(hard_negatives(image_width=self.visual.width, report_width=self.text.width), chunks)

    def encode_reports(self, tokens: Tensor) -> Tensor:
        """See `AlignedModel`: the states of `text`."""
        states: Tensor = self.text(tokens)
        return states

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the total loss for the progress bar."""
        self.log("loss", outputs["loss"], prog_bar=True, logger=False, batch_size=len(batch["ids"]))

    def _evaluate(self, batch: Batch, split: Evaluated) -> StepOutputs:
        """Embed images and reports, and update the scores."""
        visual = self.encode_images(batch)
        self.scores_of(split).update(batch, *self.embed_pairs(batch, visual.pooled))
        return {"visual": visual}
