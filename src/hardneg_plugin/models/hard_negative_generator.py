"""The report generator with hard negatives: what of it stands for an image, and what for a report."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.visual import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.metrics.report_scores import EvaluationEmbeddings
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StepOutputs
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings

ReportFeature = Literal["decoder_states", "text_only", "word_embeddings"]


class HardNegativeReportGenerator(AlignedModel, ReportGenerator):
    """`ReportGenerator` with hard negatives in training, and image-to-report recall at validation and test.

    Args:
        hard_negatives: makes the objective, called with the widths of the two features (`image_width`, `report_width`).
        report_feature: what stands for a report in the alignment, as a mean over its words: the decoder's "word_embeddings",
            free and without the image, but knowing no order; the "text_only" states of the decoder without attention to the
            image, which costs a second pass through it; or the "decoder_states", free, but computed while attending to the
            report's own image, which they can leak.
        arguments: of `ReportGenerator`.

    Recall (R@1, ...) always embeds reports without their image: with it, each report would carry its own answer.
    """

    def __init__(
        self,
        *,
        hard_negatives: Callable[..., HardNegativeObjective],
        report_feature: ReportFeature = "word_embeddings",
        **arguments: Any,
    ) -> None:
        if report_feature not in get_args(ReportFeature):
            raise UserError(
                f"report_feature: expected {', '.join(get_args(ReportFeature))}, but got {report_feature!r}."
            )
        # Not the mixin's __init__, which takes a finished objective: here its widths follow from the host.
        ReportGenerator.__init__(self, **arguments)
        self._report_feature = report_feature
        embedding = self.decoder.word_embedding
        report_width = embedding.embedding_dim if report_feature == "word_embeddings" else self.decoder.width
        self.align(hard_negatives(image_width=self.visual.width, report_width=report_width))

    def words_of(self, tokens: Tensor) -> Tensor:
        """Features `(B, T - 1, D)` of `tokens[:, 1:]` that attend to no image: what the mean is taken of."""
        if self._report_feature == "word_embeddings":
            return self.decoder.word_embeddings(tokens)
        return self.decoder.text_states(tokens)

    def words_in_training(self, batch: Batch, outputs: StepOutputs) -> Tensor:
        """The decoder's states where these stand for the report: those of the report loss, or, of mined studies, their own."""
        if self._report_feature != "decoder_states":
            return self.words_of(batch["tokens"])
        if "states" in outputs:
            return outputs["states"]
        visual = outputs["visual"]
        return self.decoder.states(visual.context, batch["tokens"], patch_mask=visual.context_mask)

    def _embeddings(self, batch: Batch, visual: VisualFeatures, tokens: Tensor) -> EvaluationEmbeddings:
        images, references = self.embed_apart(batch, visual.pooled)
        # as in a batch: [0, tokens..., 0, padding 0...], without the closing 0 where a report was cut
        rows = F.pad(tokens, (1, 0))
        mask = torch.arange(rows.shape[1], device=rows.device) <= 1 + (tokens != 0).sum(1, keepdim=True)
        reports = masked_mean(self.words_of(rows), mask[:, 1:])
        _, generated = self.hard_negatives.project(PairEmbeddings(images=visual.pooled, reports=reports))
        return EvaluationEmbeddings(images, references, generated)
