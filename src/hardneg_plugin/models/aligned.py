"""The base of models that align images with reports: features of both, and their embeddings in a shared space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.models.base import StepOutputs, StudyModel
from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.plugin.batch_parts import cut, split
from hardneg_plugin.plugin.chunks import check_chunks
from hardneg_plugin.plugin.mixin import HardNegativeMixin

# A StudyModel for type checkers; at run time a mixin before a StudyModel.
if TYPE_CHECKING:
    _Host = StudyModel[Any]
else:
    _Host = object


def split_studies(batch: Batch, chunks: int) -> list[Batch]:
    """A batch in parts, in which paired studies stay with theirs.

    Args:
        batch: of B studies.
        chunks: the number of parts, at most B of them.
    """
    paired = batch.get("negatives")
    parts: list[Batch] = split({name: value for name, value in batch.items() if name != "negatives"}, chunks)
    if paired is not None:
        each = len(paired["ids"]) // len(batch["ids"])
        for part, negatives in zip(parts, cut(paired, each * len(parts[0]["ids"])), strict=True):
            part["negatives"] = negatives
    return parts


class AlignedModel(ABC, HardNegativeMixin, _Host):
    """A `StudyModel` with an objective, in which means over patches represent images, and means over tokens reports."""

    statement_tokens: Tensor | None
    statement_mask: Tensor | None

    @abstractmethod
    def encode_reports(self, tokens: Tensor) -> Tensor:
        """Features `(B, T - 1, D)` of `tokens[:, 1:]`, tokens `(B, T)` int64, without attention to an image."""

    def encode_training_reports(self, batch: Batch, outputs: StepOutputs) -> Tensor:
        """Features `(B, T - 1, D)` of the reports in training; by default those of `encode_reports`.

        Args:
            batch: of B studies.
            outputs: of a step on them.
        """
        return self.encode_reports(batch["tokens"])

    def set_objective(self, objective: HardNegativeObjective, chunks: int = 1) -> None:
        """Set the objective; call it once `encode_reports` works, as it tokenizes the objective's statements.

        Args:
            objective: in training.
            chunks: into how many parts each training batch is split, a positive integer; as of `HardNegativeMixin`.
        """
        self.hard_negatives = objective
        self._chunks = 1 if check_chunks(chunks) == 1 else partial(split_studies, chunks=chunks)
        tokens, mask = self.tokenize(objective.statement_texts) if objective.statement_texts else (None, None)
        self.register_buffer("statement_tokens", tokens, persistent=False)
        self.register_buffer("statement_mask", mask, persistent=False)

    def embed(self, batch: Batch, outputs: StepOutputs) -> PairEmbeddings:
        """Pooled patches and the mean over the tokens of each report, with patches and tokens as local features.

        Paired studies in `batch["negatives"]` are embedded likewise, with gradient: K per study cost K further passes of the
        batch's size through visual extractor and report encoder, forward and backward, with K times the activations in memory.
        They enter the batch statistics of the visual extractor. Where the objective reads reports, their visual features are kept
        in `outputs`, under "paired_visual".

        Args:
            batch: of B studies.
            outputs: of a step on them.
        """
        paired = batch.get("negatives")
        if paired is None:
            return self._pairs(batch, outputs)
        visual = self.encode_images(paired)
        if self.hard_negatives.reads_reports:
            outputs["paired_visual"] = visual
        return replace(self._pairs(batch, outputs), negatives=self._pairs(paired, {"visual": visual}))

    def _pairs(self, batch: Batch, outputs: StepOutputs) -> PairEmbeddings:
        words, visual = self.encode_training_reports(batch, outputs), outputs["visual"]
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
        """Means over the tokens of the objective's statements, `(2, Q, D)`; None without statements."""
        if self.statement_tokens is None or self.statement_mask is None:
            return None
        features = masked_mean(self.encode_reports(self.statement_tokens), self.statement_mask[:, 1:])
        statements: Tensor = features.unflatten(0, (2, -1))
        return statements

    def embed_pairs(self, batch: Batch, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-length embeddings `(B, D)` of images and reports, as for recall: reports never attend to their image.

        Args:
            batch: of B studies.
            pooled: `(B, D_v)`, their `VisualFeatures.pooled`.
        """
        reports = masked_mean(self.encode_reports(batch["tokens"]), batch["token_mask"][:, 1:])
        return self.hard_negatives.project(PairEmbeddings(images=pooled, reports=reports))

    def embed_texts(self, texts: Sequence[str], max_length: int | None = None) -> Tensor:
        """Unit-length embeddings `(N, D)` of texts.

        Args:
            texts: N >= 1.
            max_length: tokens kept of each; None: all.
        """
        tokens, mask = self.tokenize(texts, max_length)
        reports = masked_mean(self.encode_reports(tokens), mask[:, 1:])
        return self.hard_negatives.project(
            PairEmbeddings(images=reports.new_zeros(len(reports), self.visual.width), reports=reports)
        )[1]
