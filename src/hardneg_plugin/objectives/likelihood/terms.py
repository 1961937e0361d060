"""The terms of an objective that read reports again, with other images."""

from typing import NamedTuple

import torch
from torch import Tensor

from hardneg_plugin.distributed import share_of_ranks
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import mean_token_loss
from hardneg_plugin.functional.pooling import mean_where
from hardneg_plugin.objectives.batch import EmbeddedBatch
from hardneg_plugin.objectives.likelihood.edit_margin import EditMargin
from hardneg_plugin.objectives.likelihood.margin import LikelihoodMargin
from hardneg_plugin.objectives.likelihood.negative_images import ReadReports
from hardneg_plugin.objectives.likelihood.token_weights import TokenWeights


class LikelihoodTerms(NamedTuple):
    """What takes the place of the host's report loss, and what is added; None where there is no such term."""

    report_loss: Tensor | None
    margin_loss: Tensor | None
    logs: dict[str, Tensor]


NO_TERMS = LikelihoodTerms(None, None, {})


def likelihood_terms(
    token_weights: TokenWeights | None,
    margin: LikelihoodMargin | None,
    edits: EditMargin | None,
    batch: EmbeddedBatch,
    read: ReadReports | None,
    hardness: float,
) -> LikelihoodTerms:
    """The terms of one batch.

    Args:
        token_weights: None: the host's report loss stays.
        margin, edits: added where not None.
        batch: the embeddings of this step.
        read: reads its reports; None: the host cannot.
        hardness: of this step, in [0, 1].

    Raises:
        UserError: the host cannot read its reports with other images.
    """
    if token_weights is None and margin is None and edits is None:
        return NO_TERMS
    if read is None:
        raise UserError(
            "token_weights, likelihood_margin and edit_margin read each report again, but the host does not say how: define "
            "token_losses(self, batch, outputs, image_order, towards) -> TokenLosses, or set all of them to None."
        )
    own = read()
    tokens = own.mask.sum()
    logs = {"token_loss": mean_token_loss(own.losses.detach(), own.mask)}
    # the report loss is the host's: one that is not finite stays so, and is seen
    counts = batch.usable & own.of_reports.detach().isfinite()
    report_loss, margins = None, list[Tensor]()
    if token_weights is not None:
        weights, more = token_weights(batch, own, read, hardness)
        share = share_of_ranks(weights.where(own.mask, 0).sum())
        report_loss = mean_token_loss(own.losses, own.mask, weights)
        report_loss = report_loss if share is None else report_loss * share()
        logs |= {"token_weight": weights.where(own.mask, 0).sum() / tokens.clamp_min(1), **more}
    if margin is not None:
        losses, more = margin(batch, own, read)
        margins.append(mean_where(losses, counts))
        logs |= more
    if edits is not None:
        losses, more = edits(own, read, hardness)
        margins.append(mean_where(losses, counts))
        logs |= more
    return LikelihoodTerms(report_loss, torch.stack(margins).sum() if margins else None, logs)
