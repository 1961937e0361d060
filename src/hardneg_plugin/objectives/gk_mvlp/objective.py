"""GK-MVLP's objective: images and reports aligned as wholes, as pairs, and by what is known of single findings."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.entity_losses import entity_loss, statement_loss
from hardneg_plugin.grounding import Grounding, Patches
from hardneg_plugin.knowledge import Knowledge, swaps
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.gk_mvlp.pair_matching import PairMatchingLoss
from hardneg_plugin.objectives.local_features import PartHeads
from hardneg_plugin.objectives.objective import HardNegativeObjective, ObjectiveOutput
from hardneg_plugin.objectives.projection import ProjectionHead
from hardneg_plugin.objectives.schedule import TrainingProgress

DRAWING_SCALE = 1 / 0.07
"""Of the similarities by which mismatches are drawn, where the alignment has no scale of its own."""


class GroundedKnowledgeObjective(HardNegativeObjective):
    """`HardNegativeObjective` with matching, entities and statements (GK-MVLP, arXiv 2404.14750; reconstructed).

    Four terms: the contrast of wholes (ITC), with hard negatives mined and hardened; matching of pairs by an image-report
    encoder, against mismatches drawn by similarity (ITM); which entities are present, from what each found in the image (ECLS);
    and true statements against minimal hard negatives in words, the same with presence flipped or the place swapped. Language
    modelling is the host's report loss. What is known of a study is a training target and never an input.

    Needs `PairEmbeddings.regions`, `.words` and `.facts`, and where `statement_weight` is not 0 the features of `statement_texts`.

    Args:
        image_width, report_width: of the region and word features, and of the pooled ones.
        width: D, of the embeddings and of the pair encoder.
        knowledge: whose prompts.
        grounding: makes a `Grounding` for a host without one, called with `image_width` and `knowledge`: it exists in
            training only, feeds no decoder, and is left out where `entity_weight` is 0. None: the host's own, of
            `entity_width`, tells `PairEmbeddings.entities`.
        entity_width: of the host's entities.
        pair_matching_weight, entity_weight, statement_weight: of these terms beside the contrast, from 0, which leaves one out.
        heads, layers: of the pair encoder.
        options: of `HardNegativeObjective`.

    Under DDP mismatches are drawn from all ranks' studies.

    Raises:
        UserError: a number is out of its range, or both or neither of `grounding` and `entity_width` are given.
    """

    is_swap: Tensor

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
        for name, value in (
            ("pair_matching_weight", pair_matching_weight),
            ("entity_weight", entity_weight),
            ("statement_weight", statement_weight),
        ):
            if value < 0:
                raise UserError(f"objective=gk_mvlp: expected {name} from 0, but got {value}.")
        if layers < 1 or heads < 1 or width % heads:
            raise UserError(
                "objective=gk_mvlp: expected layers from 1, and heads that divide the width, "
                f"but got layers={layers}, heads={heads} and width={width}."
            )
        if entity_weight and (grounding is None) == (entity_width is None):
            raise UserError(
                "objective=gk_mvlp: expected either grounding, a module of the objective's own, or entity_width of the "
                "host's, whose entities it gives as PairEmbeddings.entities."
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
        self, pairs: PairEmbeddings, progress: TrainingProgress, statements: Tensor | None = None
    ) -> ObjectiveOutput:
        """The terms for one batch at one position in training.

        Args:
            pairs: of B studies.
            progress: where training stands.
            statements: `(2, Q, D_r)` pooled report features of `statement_texts`: that each prompt is absent, and that it is
                present.
        """
        return self._terms(pairs, progress, partial(self._align, statements=statements))

    def _align(
        self,
        pairs: PairEmbeddings,
        batch: EmbeddedBatch,
        negatives: HardNegatives,
        hardened: Tensor | None,
        statements: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        whole, logs = super()._align(pairs, batch, negatives, hardened)
        terms: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "pair_matching_loss": (self.pair_matching_weight, lambda: self._pair_matching(pairs, batch)),
            "entity_loss": (self.entity_weight, lambda: self._entities(pairs)),
            "statement_loss": (self.statement_weight, lambda: self._statements(pairs, batch, statements)),
        }
        total = whole
        logs = {**logs, "global_loss": whole.detach().mean()}
        for name, (weight, term) in terms.items():
            if weight:
                losses = term()
                total = total + weight * losses
                logs[name] = losses.detach().mean()
        return total, logs

    def _pair_matching(self, pairs: PairEmbeddings, batch: EmbeddedBatch) -> Tensor:
        assert self.parts is not None
        assert self.pair_matching is not None
        words, regions = self.parts(pairs)
        loss: Tensor = self.pair_matching(batch, words, regions, self._scale())
        return loss

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
        embedded = F.normalize(self.report_head(statements.float()), dim=-1)
        return statement_loss(batch.images, embedded, self._facts(pairs), self.is_swap, logit_scale=self._scale())

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
        return scales[0] if len(scales) else torch.tensor(DRAWING_SCALE, device=self.is_swap.device)
