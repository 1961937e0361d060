"""The objective of GK-MVLP: images and reports aligned as wholes, as pairs, and by known single findings."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError, require_count, require_number
from hardneg_plugin.functional.entity_losses import entity_loss, statement_loss
from hardneg_plugin.functional.unit_length import SHORTEST, has_direction, unit_length
from hardneg_plugin.grounding import Grounding, Patches
from hardneg_plugin.knowledge import Knowledge, swaps
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.gk_mvlp.pair_matching import PairMatchingLoss
from hardneg_plugin.objectives.likelihood.negative_images import ReadReports
from hardneg_plugin.objectives.local_features import PartHeads
from hardneg_plugin.objectives.objective import HardNegativeObjective
from hardneg_plugin.objectives.projection import ProjectionHead
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.objectives.weighted_terms import ObjectiveOutput

DEFAULT_LOGIT_SCALE = 1 / 0.07
"""Logit scale where the alignment has none."""


class GroundedKnowledgeObjective(HardNegativeObjective):
    """`HardNegativeObjective` with pair matching, entities and statements (GK-MVLP, arXiv 2404.14750; reconstructed).

    Four terms: the contrast of whole images and reports with hard and hardened negatives (ITC); pair matching by an image-report
    encoder against negatives drawn by similarity (ITM); the presence of entities, from what each finds in the image (ECLS); and
    true statements against the same with presence flipped or the place swapped. Facts are training targets, never inputs.

    Needs `PairEmbeddings.regions`, `.words` and `.facts`, and the features of `statement_texts` unless `statement_weight` is 0.

    Args:
        image_width: of region features and pooled image features.
        report_width: of word features and pooled report features.
        width: D, of the embeddings and of the pair encoder.
        knowledge: gives the prompts.
        grounding: called with `image_width` and `knowledge`, makes a `Grounding` that exists in training only and feeds no decoder;
            None: the host has one, whose entities it gives as `PairEmbeddings.entities`.
        entity_width: of the host's entities.
        pair_matching_weight, entity_weight, statement_weight: of the terms beside the contrast, >= 0; 0 leaves a term out.
        heads, layers: of the pair encoder; `heads` must divide `width`.
        options: of `HardNegativeObjective`.

    Under DDP negatives are drawn from the studies of all ranks.

    >>> from functools import partial
    >>> from hardneg_plugin.grounding import Grounding, Learned
    >>> from hardneg_plugin.knowledge import ChestXray
    >>> grounding = partial(Grounding, width=16, regions=partial(Learned, count=4))
    >>> objective = GroundedKnowledgeObjective(
    ...     image_width=32, report_width=16, width=8, knowledge=ChestXray(), grounding=grounding
    ... )

    Raises:
        UserError: a number out of its range, or both or neither of `grounding` and `entity_width`.
    """

    is_swap: Tensor

    reads_parts = True

    def __init__(
        self,
        *,
        image_width: int,
        report_width: int,
        width: int,
        knowledge: Knowledge,
        grounding: Callable[..., Grounding] | None = None,
        entity_width: int | None = None,
        pair_matching_weight: float = 1.0,
        entity_weight: float = 1.0,
        statement_weight: float = 1.0,
        heads: int = 4,
        layers: int = 1,
        **options: object,
    ) -> None:
        require_number(pair_matching_weight, "objective=gk_mvlp", "pair_matching_weight >= 0", least=0)
        require_number(entity_weight, "objective=gk_mvlp", "entity_weight >= 0", least=0)
        require_number(statement_weight, "objective=gk_mvlp", "statement_weight >= 0", least=0)
        for name, value in (("width", width), ("heads", heads), ("layers", layers)):
            require_count(value, "objective=gk_mvlp", f"{name} >= 1")
        if entity_width is not None:
            require_count(entity_width, "objective=gk_mvlp", "entity_width >= 1")
        if width % heads:
            raise UserError(
                f"objective=gk_mvlp: expected heads that divide the width, but got heads={heads} and width={width}."
            )
        if entity_weight and (grounding is None) == (entity_width is None):
            raise UserError(
                "objective=gk_mvlp: expected either grounding, for a module in the objective, or entity_width of the host's "
                "entities, which it gives as PairEmbeddings(entities=...)."
            )
        super().__init__(image_width=image_width, report_width=report_width, width=width, **options)  # type: ignore[arg-type]
        self.prompts = knowledge.prompts
        self.pair_matching_weight, self.entity_weight = pair_matching_weight, entity_weight
        self.statement_weight = statement_weight
        if statement_weight:
            self.statement_texts = [*(one.absent for one in self.prompts), *(one.present for one in self.prompts)]
        self.register_buffer("is_swap", swaps(self.prompts), persistent=False)
        with torch.random.fork_rng(devices=[]):  # as of the other heads
            self.grounding = grounding(image_width, knowledge=knowledge) if entity_weight and grounding else None
            found = entity_width if self.grounding is None else self.grounding.width
            self.entity = nn.Linear(found, 1) if entity_weight and found else None
            self.parts = PartHeads(image_width, report_width, width) if pair_matching_weight else None
            self.pair_matching = PairMatchingLoss(width, heads=heads, layers=layers) if pair_matching_weight else None

    def forward(
        self,
        pairs: PairEmbeddings,
        progress: TrainingProgress,
        statements: Tensor | None = None,
        *,
        read: ReadReports | None = None,
    ) -> ObjectiveOutput:
        """The terms of one batch; zero, with a zero gradient, during the warm-up.

        Args:
            pairs: of B local studies.
            progress: the position in training.
            statements: `(2, Q, D_r)` pooled report features of `statement_texts`: that each prompt is absent, and that it is
                present.
            read: as of `HardNegativeObjective`.
        """
        return self._terms(pairs, progress, partial(self._align, statements=statements), read)

    def _align(
        self,
        pairs: PairEmbeddings,
        batch: EmbeddedBatch,
        negatives: HardNegatives,
        hardened: Tensor | None,
        statements: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        whole, logs = super()._align(pairs, batch, negatives, hardened)
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.parts is not None and self.pair_matching is not None:
            losses = self.pair_matching(batch, *self.parts(pairs), self._scale())
            terms["pair_matching_loss"] = self.pair_matching_weight, losses
        if self.entity_weight:
            terms["entity_loss"] = self.entity_weight, self._entities(pairs)
        if self.statement_weight:
            terms["statement_loss"] = self.statement_weight, self._statements(pairs, batch, statements)
        total = whole
        logs = {**logs, "global_loss": batch.local_mean(whole)}
        for name, (weight, losses) in terms.items():
            total = total + weight * losses
            logs[name] = batch.local_mean(losses)
        return total, logs

    def _entities(self, pairs: PairEmbeddings) -> Tensor:
        assert self.entity is not None
        found = pairs.entities
        if self.grounding is not None:
            if pairs.regions is None:
                raise ValueError(
                    "objective=gk_mvlp grounds entities in regions: give PairEmbeddings(regions=(B, P, D))."
                )
            found = self.grounding(Patches(pairs.regions.float(), pairs.region_mask, pairs.grid))
        if found is None:
            raise ValueError(
                "objective=gk_mvlp was built for the host's entities: give PairEmbeddings(entities=(B, Q, D))."
            )
        return entity_loss(self.entity(found.float()).squeeze(-1), self._facts(pairs))

    def _statements(self, pairs: PairEmbeddings, batch: EmbeddedBatch, statements: Tensor | None) -> Tensor:
        if statements is None or statements.shape[:2] != (2, len(self.prompts)):
            got = "none" if statements is None else tuple(statements.shape)
            raise ValueError(
                f"objective=gk_mvlp contrasts statements of {len(self.prompts)} prompts: expected features "
                f"(2, {len(self.prompts)}, D_r) of the objective's statement_texts, but got {got}: give them by the mixin's "
                "embed_statements or plug_in(statements=...), or set statement_weight=0."
            )
        assert isinstance(self.report_head, ProjectionHead)
        is_usable = has_direction(statements)
        embedded = self.report_head(statements.float().where(is_usable[..., None], 0))
        # what is known of a prompt says nothing without both of its statements
        facts = self._facts(pairs).masked_fill(~(is_usable & has_direction(embedded)).all(0), -1)
        embedded = unit_length(embedded, SHORTEST)
        return statement_loss(batch.images, embedded, facts, self.is_swap, logit_scale=self._scale())

    def _facts(self, pairs: PairEmbeddings) -> Tensor:
        wanted = (len(pairs.images), len(self.prompts))
        if pairs.facts is None or pairs.facts.shape != wanted:
            got = "none" if pairs.facts is None else tuple(pairs.facts.shape)
            raise ValueError(
                f"objective=gk_mvlp learns from facts: expected PairEmbeddings(facts={wanted}), one for each prompt, "
                f"but got {got}."
            )
        return pairs.facts.to(pairs.images.device)

    def _scale(self) -> Tensor:
        scales = self._scales_of_this_step()
        return scales[0] if len(scales) else torch.full((), DEFAULT_LOGIT_SCALE, device=self.is_swap.device)
