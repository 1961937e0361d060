"""The report generator with hard negatives: what of it stands for an image, and what for a report."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.generator import Features, ReportGenerator
from hardneg_plugin.mixin import HardNegativeMixin
from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.scoring.report_scores import Embeddings

ReportFeature = Literal["decoder_states", "text_only", "word_embeddings"]


class HardNegativeReportGenerator(HardNegativeMixin, ReportGenerator):
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

    statement_tokens: Tensor | None
    statement_mask: Tensor | None

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
        self.hard_negatives = hard_negatives(image_width=self.visual.width, report_width=report_width)
        tokens = [torch.tensor(self.tokenizer.encode(text)) for text in self.hard_negatives.statement_texts]
        rows = pad_sequence(tokens, batch_first=True) if tokens else None
        self.register_buffer("statement_tokens", rows, persistent=False)
        lengths = torch.tensor([len(row) for row in tokens])
        mask = None if rows is None else torch.arange(rows.shape[1]) < lengths[:, None]
        self.register_buffer("statement_mask", mask, persistent=False)

    def embed(self, batch: Batch, outputs: Features) -> PairEmbeddings:
        """The pooled patches, and the mean over the words of each report; patches and words themselves as parts.

        Where the batch carries mined studies, theirs too, with a gradient of their own: for K per study that is K further
        passes of the batch's size through visual extractor and decoder, forward and backward, with K times its activations
        in memory. They count in the batch statistics of a visual extractor that keeps such.
        """
        attends = self._report_feature == "decoder_states"
        states = outputs["states"] if attends else self.words_of(batch["tokens"])
        negatives = self._embed_mined(batch["negatives"]) if "negatives" in batch else None
        return replace(
            self._pairs(batch, outputs["pooled"], states, negatives),
            regions=outputs["patches"],
            region_mask=outputs["patch_mask"],
            words=states,
            word_mask=batch["token_mask"][:, 1:],
            entities=outputs.get("entities"),
            facts=batch.get("facts"),
            statements=self._statements(),
        )

    def embed_apart(self, batch: Batch, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-length embeddings `(B, D)` of images and of reports without their image, as recall is measured by."""
        return self.hard_negatives.project(self._pairs(batch, pooled, self.words_of(batch["tokens"])))

    def words_of(self, tokens: Tensor) -> Tensor:
        """Features `(B, T - 1, D)` of `tokens[:, 1:]` that attend to no image: what the mean is taken of."""
        if self._report_feature == "word_embeddings":
            return self.decoder.word_embeddings(tokens)
        return self.decoder.text_states(tokens)

    def _statements(self) -> Tensor | None:
        if self.statement_tokens is None or self.statement_mask is None:
            return None
        features: Tensor = masked_mean(self.words_of(self.statement_tokens), self.statement_mask[:, 1:])
        of_both: Tensor = features.unflatten(0, (2, -1))
        return of_both

    def _embed_mined(self, mined: Batch) -> PairEmbeddings:
        visual = self.see(mined)
        if self._report_feature == "decoder_states":
            states = self.decoder.states(visual.patches, mined["tokens"], patch_mask=visual.patch_mask)
        else:
            states = self.words_of(mined["tokens"])
        return self._pairs(mined, visual.pooled, states)

    def _pairs(
        self, batch: Batch, pooled: Tensor, states: Tensor, negatives: PairEmbeddings | None = None
    ) -> PairEmbeddings:
        study_ids, patient_ids, texts, labels = batch["match_keys"].unbind(1)
        return PairEmbeddings(
            images=pooled,
            reports=masked_mean(states, batch["token_mask"][:, 1:]),
            study_ids=study_ids,
            patient_ids=patient_ids,
            texts=texts,
            labels=labels,
            negatives=negatives,
        )

    def _embeddings(self, batch: Batch, outputs: Features, words: Tensor) -> Embeddings:
        images, references = self.embed_apart(batch, outputs["pooled"])
        # as a batch has them: [0, words..., 0, padding 0...], without the closing 0 where the words were cut
        tokens = F.pad(words, (1, 0))
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= 1 + (words != 0).sum(1, keepdim=True)
        written = masked_mean(self.words_of(tokens), mask[:, 1:])
        _, generated = self.hard_negatives.project(PairEmbeddings(images=outputs["pooled"], reports=written))
        return Embeddings(images, references, generated)
