"""The hard-negative objective: find each study's hard negatives, harden them, tell them from the positive."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError, require_count
from hardneg_plugin.functional.hard_negatives import are_matches
from hardneg_plugin.functional.hardening import Arc
from hardneg_plugin.functional.hardening_strategy import Hardening, StepStudies
from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.functional.unit_length import SHORTEST, unit_length
from hardneg_plugin.objectives.alignment import Alignment, InfoNCE
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.batch_logs import batch_logs
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.likelihood.edit_margin import EditMargin
from hardneg_plugin.objectives.likelihood.margin import LikelihoodMargin
from hardneg_plugin.objectives.likelihood.negative_images import ReadReports
from hardneg_plugin.objectives.likelihood.terms import NO_TERMS, LikelihoodTerms, likelihood_terms
from hardneg_plugin.objectives.likelihood.token_weights import TokenWeights
from hardneg_plugin.objectives.negatives.sources import InBatch, NegativeSource
from hardneg_plugin.objectives.projection import ProjectionHead
from hardneg_plugin.objectives.schedule import Linear, Schedule, TrainingProgress
from hardneg_plugin.objectives.separation import Separation
from hardneg_plugin.objectives.usable_studies import usable_studies, without_unusable
from hardneg_plugin.objectives.weighted_terms import ObjectiveOutput, Weights

Align = Callable[
    [PairEmbeddings, EmbeddedBatch, HardNegatives, Tensor | None],
    tuple[Tensor, dict[str, Tensor]],
]

_ARC = Arc()  # the default; None means no hardening


class HardNegativeObjective(nn.Module):
    """Alignment of images and reports against increasingly hard negatives (ITHN, ECAI 2023, arXiv 2305.07176; reconstructed).

    Args:
        alignment: the loss (`InfoNCE`, `Triplet`, `ReleasedAlignment`); None: `InfoNCE()`.
        hardening: the inner maximisation, a strategy of `functional.hardening` or `Alternating`; None: no hardening.
        negatives: the source of hard negatives (`InBatch`, `Queue`, `Bank`, `Paired`); None: `InBatch()`.
        schedule: hardness over training (`Linear`, `Cosine`, `Exponential`, `Constant`); None: `Linear()`.
        separation: the loss between images of a study and of its hard negatives (`Hinge`, `Absolute`); None: none.
        token_weights: weights of the tokens in the report loss (`ByImage`, `ByText`, `ByEmphasis`); None: the host's report loss as
            it is.
        likelihood_margin: `LikelihoodMargin`, how much likelier a report is with its own image; None: none. Both need a host that
            reads its reports with other images (`HardNegativeMixin.token_losses`).
        edit_margin: `EditMargin`, how much likelier a report is than copies with changed findings; None: none. It needs a host that
            reads these (`HardNegativeMixin.edited_token_losses`).
        weights: of report loss, alignment loss, separation loss and likelihood margins in the total.
        image_width, report_width: of the features, where `width` is given.
        width: of the embeddings, to which bias-free heads map the features; None: no heads, and features of one width.
        centred: the heads subtract the running mean of their features (`ProjectionHead`).

    Heads and logit scale exist in training only: nothing is added at inference. The objective works in float32 whatever the
    precision of training. Every parameter gets a gradient at every step, a zero one in the warm-up, with one study, or where
    every pair is a match.

    Under DDP the contrast is over the batches of all ranks, which may differ in size, and the averaged gradient is that of one
    process with all studies in one batch (`Released` and `ReleasedAlignment` stay within their local batch, as the released code
    does). Each step costs three collectives: the sizes with the sums for the centres, the embeddings with the match keys, and the
    embeddings' gradient.
    Gradient accumulation does not widen the contrast; a queue does.

    >>> objective = HardNegativeObjective(image_width=6, report_width=4, width=8)
    >>> pairs = PairEmbeddings(images=torch.randn(5, 6), reports=torch.randn(5, 4), study_ids=["a", "b", "c", "d", "e"])
    >>> terms = objective(pairs, TrainingProgress(fraction=0.5))
    >>> terms.alignment_loss.backward()
    >>> round(terms.logs["hardness"].item(), 2)
    0.45

    Raises:
        UserError: `width` without `image_width` and `report_width`.
    """

    statement_texts: Sequence[str] = ()
    """Sentences whose features `forward` needs at each step (`GroundedKnowledgeObjective`)."""

    reads_parts: ClassVar[bool] = False
    """Whether `forward` reads regions and words of `PairEmbeddings`; where it does not, `chunks` leave them out."""

    def __init__(
        self,
        *,
        alignment: Alignment | None = None,
        hardening: Hardening | None = _ARC,
        negatives: NegativeSource | None = None,
        schedule: Schedule | None = None,
        separation: Separation | None = None,
        token_weights: TokenWeights | None = None,
        likelihood_margin: LikelihoodMargin | None = None,
        edit_margin: EditMargin | None = None,
        weights: Weights | None = None,
        image_width: int | None = None,
        report_width: int | None = None,
        width: int | None = None,
        centred: bool = True,
    ) -> None:
        super().__init__()
        self.alignment: Alignment = alignment or InfoNCE()
        self.hardening = hardening
        self.negatives: NegativeSource = negatives or InBatch()
        self.schedule = schedule or Linear()
        self.separation = separation
        self.token_weights, self.likelihood_margin, self.edit_margin = token_weights, likelihood_margin, edit_margin
        self.weights = weights or Weights()
        self.image_head, self.report_head = _heads(image_width, report_width, width, centred)
        log_scales = torch.tensor(self.alignment.initial_log_scales)
        # no parameter rather than an empty one, which would never get a gradient
        self.log_scales = nn.Parameter(log_scales) if len(log_scales) else None

    def project(self, pairs: PairEmbeddings) -> tuple[Tensor, Tensor]:
        """Unit-length image and report embeddings `(B, D)` in float32, through the heads if there are any.

        Raises:
            ValueError: features of two widths without heads, or of other widths than those of the heads.
        """
        images, reports = self._in_one_width(pairs)
        return F.normalize(images, dim=-1), F.normalize(reports, dim=-1)

    @property
    def reads_reports(self) -> bool:
        """Whether `forward` reads reports again, with other images or edited."""
        return any(term is not None for term in (self.token_weights, self.likelihood_margin, self.edit_margin))

    def forward(
        self, pairs: PairEmbeddings, progress: TrainingProgress, *, read: ReadReports | None = None
    ) -> ObjectiveOutput:
        """The terms of one batch; zero, with a zero gradient, during the warm-up.

        Args:
            pairs: of B local studies.
            progress: the position in training.
            read: reads their reports again, where `reads_reports`.
        """
        return self._terms(pairs, progress, self._align, read)

    def _terms(
        self, pairs: PairEmbeddings, progress: TrainingProgress, align: Align, read: ReadReports | None
    ) -> ObjectiveOutput:
        pairs = without_unusable(pairs, reads_parts=self.reads_parts)
        batch = self._embed(pairs, progress)
        likelihood = self._likelihood(batch, read)
        with torch.autocast(batch.images.device.type, enabled=False):
            negatives = self.negatives(batch)
            hardness = self.schedule(progress)
            hardened = self._harden(batch, negatives, hardness)
            alignment, logs = align(pairs, batch, negatives, hardened)
            alignment_loss, separation_loss = batch.loss(alignment), batch.images.new_zeros(())
            if self.separation is not None and negatives.images is not None:
                separation_loss = batch.loss(self.separation(batch.images, negatives.images, negatives.valid))
            if not self.schedule.is_active(progress):  # zero, with a zero gradient
                alignment_loss, separation_loss = 0 * alignment_loss, 0 * separation_loss
            return ObjectiveOutput(
                alignment_loss=alignment_loss,
                separation_loss=separation_loss,
                logs=batch_logs(batch, negatives, hardened, hardness) | logs | likelihood.logs,
                report_loss=likelihood.report_loss,
                likelihood_loss=likelihood.margin_loss,
            )

    def _likelihood(self, batch: EmbeddedBatch, read: ReadReports | None) -> LikelihoodTerms:
        # in the host's precision, and not in the warm-up, which costs no further pass then
        if not self.schedule.is_active(batch.progress):
            return NO_TERMS
        hardness = self.schedule(batch.progress)
        return likelihood_terms(self.token_weights, self.likelihood_margin, self.edit_margin, batch, read, hardness)

    def _align(
        self, pairs: PairEmbeddings, batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The alignment loss of each local study `(B,)`, and further scalars to log."""
        return self.alignment(batch, negatives, hardened, self._scales_of_this_step()), {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HardNegativeObjective":
        # moves to other devices, but stays float32 where a host is cast as a whole (Lightning's bf16-true, 64-true): a logit
        # scale with 8 bits of precision would never learn
        def moved(tensor: Tensor) -> Tensor:
            other = fn(tensor)
            return other if other.dtype == tensor.dtype else tensor.to(other.device)

        super()._apply(moved, recurse)
        return self

    def _embed(self, pairs: PairEmbeddings, progress: TrainingProgress) -> EmbeddedBatch:
        self._check_widths(pairs)
        usable = usable_studies(pairs)
        shards = self._centre(pairs, usable)
        images, reports, has_unit_length = self._of_unit_length(pairs)
        usable = usable & has_unit_length
        keys = pairs.match_keys
        columns = keys.columns.where(usable[:, None], UNKNOWN)
        width = images.shape[1]
        both, all_columns = shards.gather_with(
            torch.cat([images, reports], dim=1).where(usable[:, None], 0),
            torch.cat([columns, usable[:, None].to(columns.dtype)], dim=1),
        )
        return EmbeddedBatch(
            all_images=both[:, :width],
            all_reports=both[:, width:],
            all_keys=replace(keys, columns=all_columns[:, :-1]),
            shards=shards,
            progress=progress,
            paired=None if pairs.negatives is None else self._paired(pairs.negatives, columns, usable),
            all_usable=all_columns[:, -1].bool(),
        )

    def _in_one_width(self, pairs: PairEmbeddings) -> tuple[Tensor, Tensor]:
        self._check_widths(pairs)
        with torch.autocast(pairs.images.device.type, enabled=False):
            return self.image_head(pairs.images.float()), self.report_head(pairs.reports.float())

    def _of_unit_length(self, pairs: PairEmbeddings) -> tuple[Tensor, Tensor, Tensor]:
        """`project`, with rows of zeros where there is no direction, and for which studies there is one on both sides `(B,)`."""
        images, reports = (unit_length(side, SHORTEST) for side in self._in_one_width(pairs))
        return images, reports, images.detach().any(-1) & reports.detach().any(-1)

    def _centre(self, pairs: PairEmbeddings, usable: Tensor) -> Shards:
        """Let the heads follow the mean features of all ranks; how the studies are spread over these comes with it."""
        heads = [
            head for head in (self.image_head, self.report_head) if isinstance(head, ProjectionHead) and head.centred
        ]
        if not heads:
            return Shards.of(len(usable), usable.device)
        shards, total = Shards.with_sum(torch.cat([pairs.images, pairs.reports, usable[:, None]], dim=1).float())
        *sums, count = total.split([*(head.in_features for head in heads), 1])
        for head, of_head in zip(heads, sums, strict=True):
            head.follow(of_head / count)  # NaN without a usable study
        return shards

    def _paired(self, pairs: PairEmbeddings, columns: Tensor, usable: Tensor) -> HardNegatives:
        images, reports, has_unit_length = self._of_unit_length(pairs)
        is_match = are_matches(columns, pairs.match_keys.columns.unflatten(0, (len(columns), -1)))
        valid = ~is_match & has_unit_length.view_as(is_match) & usable[:, None]
        shape = (*is_match.shape, -1)
        return HardNegatives(reports=reports.reshape(shape), images=images.reshape(shape), valid=valid)

    def _harden(self, batch: EmbeddedBatch, negatives: HardNegatives, hardness: float) -> Tensor | None:
        if self.hardening is None:
            return None
        return self.hardening(
            batch.images.detach(),
            batch.reports.detach(),
            negatives.reports.detach().where(batch.usable[:, None, None], 0),  # `Released` mixes studies
            hardness,
            StepStudies(batch.keys, negatives.valid, batch.shards),
        )

    def _scales_of_this_step(self) -> Tensor:
        # the parameter itself is clamped: a clamp in the graph would give a scale beyond its range no gradient any more
        if self.log_scales is None:
            return torch.empty(0)
        with torch.no_grad():
            self.log_scales.clamp_(*self.alignment.log_scale_range)
        return self.log_scales.exp()

    def _check_widths(self, pairs: PairEmbeddings) -> None:
        got = (pairs.images.shape[-1], pairs.reports.shape[-1])
        if isinstance(self.image_head, ProjectionHead) and isinstance(self.report_head, ProjectionHead):
            expected = (self.image_head.in_features, self.report_head.in_features)
            if got != expected:
                raise ValueError(
                    f"Expected image and report features of widths {expected} (image_width, report_width), but got {got}."
                )
        elif got[0] != got[1]:
            raise ValueError(
                f"Expected image and report features of one width, but got {got[0]} and {got[1]}: pass "
                f"HardNegativeObjective(image_width={got[0]}, report_width={got[1]}, width=512) to add heads."
            )


def _heads(
    image_width: int | None, report_width: int | None, width: int | None, centred: bool
) -> tuple[nn.Module, nn.Module]:
    for name, value in (("image_width", image_width), ("report_width", report_width), ("width", width)):
        if value is not None:
            require_count(value, f"HardNegativeObjective: {name}")
    if width is None:
        return nn.Identity(), nn.Identity()
    if image_width is None or report_width is None:
        raise UserError(
            f"HardNegativeObjective: heads to width={width} need image_width and report_width, "
            f"but got image_width={image_width}, report_width={report_width}."
        )
    # leaves the global generator as it was: a host draws the same dropout as without the plug-in
    with torch.random.fork_rng(devices=[]):
        return ProjectionHead(image_width, width, centred=centred), ProjectionHead(report_width, width, centred=centred)
