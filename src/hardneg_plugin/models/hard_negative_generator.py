"""The report generator with hard negatives, and its choice of report features."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.visual_features import VisualFeatures
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
        hard_negatives: makes the objective, called with the widths of the features (`image_width`, `report_width`).
        report_feature: the feature whose mean over tokens represents a report. "word_embeddings" of the decoder: free, without the
            image, but without order. "text_only": states of the decoder without attention to the image, at the cost of a second
            pass. "decoder_states": free, but they attend to the report's own image and can leak it.
        chunks: into how many parts each training batch is split, as of `HardNegativeMixin`: more studies than fit at once.
        arguments: of `ReportGenerator`.

    Recall (R@1, ...) always embeds reports without their image, which would leak the answer.

        model = HardNegativeReportGenerator(
            visual=VisualExtractor("resnet101", pretrained=True),
            backbone=R2Gen,
            tokenizer=WordTokenizer.from_reports(reports),
            optimizer=functools.partial(torch.optim.AdamW, lr=1e-4),
            hard_negatives=HardNegativeObjective,
        )
        pl.Trainer(max_epochs=10).fit(model, datamodule=StudyDataModule(...))
    """

    def __init__(
        self,
        *,
        hard_negatives: Callable[..., HardNegativeObjective],
        report_feature: ReportFeature = "word_embeddings",
        chunks: int = 1,
        **arguments: Any,
    ) -> None:
        if report_feature not in get_args(ReportFeature):
            raise UserError(
                f"report_feature: expected {', '.join(get_args(ReportFeature))}, but got {report_feature!r}."
            )
        # not the mixin's __init__, which takes an objective: here its widths depend on the host
        ReportGenerator.__init__(self, **arguments)
        self._report_feature = report_feature
        embedding = self.decoder.word_embedding
        report_width = embedding.embedding_dim if report_feature == "word_embeddings" else self.decoder.width
        self.set_objective(hard_negatives(image_width=self.visual.width, report_width=report_width), chunks)

    def chunk_weight(self, batch: Batch, outputs: StepOutputs) -> Tensor:
        """The number of tokens, over which the report loss is a mean."""
        return outputs["losses"][:, 1].sum()

    def encode_reports(self, tokens: Tensor) -> Tensor:
        """See `AlignedModel`: word embeddings, or text-only states of the decoder."""
        if self._report_feature == "word_embeddings":
            return self.decoder.word_embeddings(tokens)
        return self.decoder.text_states(tokens)

    def encode_training_reports(self, batch: Batch, outputs: StepOutputs) -> Tensor:
        """See `AlignedModel`: for "decoder_states" the states of the report loss; those of paired studies are computed here."""
        if self._report_feature != "decoder_states":
            return self.encode_reports(batch["tokens"])
        if "states" in outputs:
            return outputs["states"]
        visual = outputs["visual"]
        return self.decoder.states(visual.context, batch["tokens"], patch_mask=visual.context_mask)

    def _embeddings(self, batch: Batch, visual: VisualFeatures, tokens: Tensor) -> EvaluationEmbeddings:
        images, references = self.embed_pairs(batch, visual.pooled)
        # as in a batch: [0, tokens..., 0, padding 0...], without the closing 0 where a report was cut
        rows = F.pad(tokens, (1, 0))
        mask = torch.arange(rows.shape[1], device=rows.device) <= 1 + (tokens != 0).sum(1, keepdim=True)
        reports = masked_mean(self.encode_reports(rows), mask[:, 1:])
        _, generated = self.hard_negatives.project(PairEmbeddings(images=visual.pooled, reports=reports))
        return EvaluationEmbeddings(images, references, generated)
