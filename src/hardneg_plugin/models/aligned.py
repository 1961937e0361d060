"""What every model of ours that aligns images with reports shares: what stands for either, and the space in which they meet."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.models.base import StepOutputs, StudyModel
from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.plugin.mixin import HardNegativeMixin

# Stands before a StudyModel in the bases; for a type checker it is one, at run time it must not be.
if TYPE_CHECKING:
    _Host = StudyModel[Any]
else:
    _Host = object


class AlignedModel(ABC, HardNegativeMixin, _Host):
    """A `StudyModel` with an objective: the mean of the patches stands for an image, the mean of the words for a report."""

    statement_tokens: Tensor | None
    statement_mask: Tensor | None

    @abstractmethod
    def words_of(self, tokens: Tensor) -> Tensor:
        """Features `(B, T - 1, D)` of `tokens[:, 1:]` that attend to no image: what the mean is taken of."""

    def words_in_training(self, batch: Batch, outputs: StepOutputs) -> Tensor:
        """Those that stand for the reports in training, where these are others."""
        return self.words_of(batch["tokens"])

    def align(self, objective: HardNegativeObjective) -> None:
        """Take the objective, once the visual extractor and what makes words are there."""
        self.hard_negatives = objective
        tokens, mask = self.tokens_of(objective.statement_texts) if objective.statement_texts else (None, None)
        self.register_buffer("statement_tokens", tokens, persistent=False)
        self.register_buffer("statement_mask", mask, persistent=False)

    def embed(self, batch: Batch, outputs: StepOutputs) -> PairEmbeddings:
        """The pooled patches, and the mean over the words of each report; patches and words themselves as parts.

        Where the batch carries mined studies, theirs too, with a gradient of their own: for K per study that is K further
        passes of the batch's size through visual extractor and what makes words, forward and backward, with K times its
        activations in memory. They count in the batch statistics of a visual extractor that keeps such.

        Args:
            batch: of B studies.
            outputs: of a step on them.
        """
        mined = batch.get("negatives")
        negatives = None if mined is None else self._pairs(mined, {"visual": self.encode_images(mined)})
        return replace(self._pairs(batch, outputs), negatives=negatives)

    def _pairs(self, batch: Batch, outputs: StepOutputs) -> PairEmbeddings:
        words, visual = self.words_in_training(batch, outputs), outputs["visual"]
        word_mask = batch["token_mask"][:, 1:]
        return PairEmbeddings(
            images=visual.pooled,
            reports=masked_mean(words, word_mask),
            match_keys=MatchKeys(batch["match_keys"]),
            regions=visual.patches,
            region_mask=visual.patch_mask,
            words=words,
            word_mask=word_mask,
            entities=visual.entities,
            facts=batch.get("facts"),
        )

    def embed_statements(self, batch: Batch, outputs: StepOutputs) -> Tensor | None:
        """The mean over the words of each of the objective's statements, `(2, Q, D)`."""
        if self.statement_tokens is None or self.statement_mask is None:
            return None
        features = masked_mean(self.words_of(self.statement_tokens), self.statement_mask[:, 1:])
        of_both: Tensor = features.unflatten(0, (2, -1))
        return of_both

    def embed_apart(self, batch: Batch, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-length embeddings `(B, D)` of images and of reports without their image, as recall is measured by."""
        reports = masked_mean(self.words_of(batch["tokens"]), batch["token_mask"][:, 1:])
        return self.hard_negatives.project(PairEmbeddings(images=pooled, reports=reports))

    def embed_texts(self, texts: Sequence[str], max_length: int | None = None) -> Tensor:
        """Unit-length embeddings `(N, D)` of N >= 1 texts, each cut to `max_length` tokens."""
        tokens, mask = self.tokens_of(texts, max_length)
        reports = masked_mean(self.words_of(tokens), mask[:, 1:])
        return self.hard_negatives.project(
            PairEmbeddings(images=reports.new_zeros(len(reports), self.visual.width), reports=reports)
        )[1]
