"""The hard-negative objective: find each study's hard negatives, harden them, tell them from the positive."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hard_negatives import are_matches
from hardneg_plugin.functional.hardening import Arc
from hardneg_plugin.functional.hardening_strategy import Hardening, StepStudies
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives.alignment import Alignment, InfoNCE
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
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
    does). Each step costs one collective each for the sizes, the embeddings, the match keys and the embeddings' gradient.
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
        self._check_widths(pairs)
        with torch.autocast(pairs.images.device.type, enabled=False):
            images = F.normalize(self.image_head(pairs.images.float()), dim=-1)
            reports = F.normalize(self.report_head(pairs.reports.float()), dim=-1)
        return images, reports

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
        batch = self._embed(pairs, progress)
        likelihood = self._likelihood(batch, read)
        with torch.autocast(batch.images.device.type, enabled=False):
            negatives = self.negatives(batch)
            hardness = self.schedule(progress)
            hardened = self._harden(batch, negatives, hardness)
            alignment, logs = align(pairs, batch, negatives, hardened)
            alignment_loss, separation_loss = batch.shards.mean(alignment), batch.images.new_zeros(())
            if self.separation is not None and negatives.images is not None:
                separation_loss = batch.shards.mean(self.separation(batch.images, negatives.images, negatives.valid))
            if not self.schedule.is_active(progress):  # zero, with a zero gradient
                alignment_loss, separation_loss = 0 * alignment_loss, 0 * separation_loss
            return ObjectiveOutput(
                alignment_loss=alignment_loss,
                separation_loss=separation_loss,
                logs=self._logs(batch, negatives, hardened, hardness) | logs | likelihood.logs,
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
        shards = Shards.of(len(pairs.images), pairs.images.device)
        self._centre(pairs, shards)
        images, reports = self.project(pairs)
        keys = pairs.match_keys
        width = images.shape[1]
        both = shards.gather(torch.cat([images, reports], dim=1))
        return EmbeddedBatch(
            all_images=both[:, :width],
            all_reports=both[:, width:],
            all_keys=replace(keys, columns=shards.gather(keys.columns)),
            shards=shards,
            progress=progress,
            paired=None if pairs.negatives is None else self._paired(pairs.negatives, keys),
        )

    def _centre(self, pairs: PairEmbeddings, shards: Shards) -> None:
        heads = [
            head for head in (self.image_head, self.report_head) if isinstance(head, ProjectionHead) and head.centred
        ]
        if not heads:
            return
        means = shards.sum(torch.cat([pairs.images, pairs.reports], dim=1).float()) / sum(shards.sizes)
        for head, mean in zip(heads, means.split([head.in_features for head in heads]), strict=True):
            head.follow(mean)

    def _paired(self, pairs: PairEmbeddings, keys: MatchKeys) -> HardNegatives:
        images, reports = self.project(pairs)
        is_match = are_matches(keys.columns, pairs.match_keys.columns.unflatten(0, (len(keys), -1)))
        shape = (*is_match.shape, -1)
        return HardNegatives(reports=reports.reshape(shape), images=images.reshape(shape), valid=~is_match)

    def _harden(self, batch: EmbeddedBatch, negatives: HardNegatives, hardness: float) -> Tensor | None:
        if self.hardening is None:
            return None
        return self.hardening(
            batch.images.detach(),
            batch.reports.detach(),
            negatives.reports.detach(),
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

    @torch.no_grad()
    def _logs(
        self,
        batch: EmbeddedBatch,
        negatives: HardNegatives,
        hardened: Tensor | None,
        hardness: float,
    ) -> dict[str, Tensor]:
        valid = negatives.valid
        count = valid.sum().clamp_min(1)
        images, is_match = batch.images, batch.is_match

        def similarity(others: Tensor) -> Tensor:
            return (torch.einsum("bd,bkd->bk", images, others) * valid).sum() / count

        pairs_of_two = is_match.numel() - len(is_match)
        logs = {
            "hardness": torch.full((), hardness, dtype=torch.float32, device=images.device),
            "positive_similarity": (images * batch.reports).sum(-1).mean(),
            "negative_similarity": similarity(negatives.reports),
            "negatives_found": valid.float().mean(),
            "false_negative_share": (is_match.sum() - len(is_match)) / max(pairs_of_two, 1),
        }
        if hardened is not None:
            logs["hardened_similarity"] = similarity(hardened)
        return logs

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
