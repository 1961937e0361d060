"""A report must be likelier with its own image than with those of hard negatives, by a margin."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from hardneg_plugin.errors import require
from hardneg_plugin.functional.likelihood import MarginForm, TokenLosses, likelihood_margin
from hardneg_plugin.objectives.batch import EmbeddedBatch
from hardneg_plugin.objectives.likelihood.negative_images import Choice, NegativeImages, ReadReports

Side = Literal["image", "report", "both"]


@dataclass(frozen=True)
class LikelihoodMargin:
    """`functional.likelihood.likelihood_margin` between a study and its negatives in the local batch, with gradient on both.

    Each report is read with the images of K negatives: K passes of the decoder, forward and backward. "image": it must be less
    likely with them than with its own image. "report": it must be less likely with such an image than that image's own report is.

    Args:
        form, beta, margin: of the loss.
        side: "image", "report" or "both", their mean.
        choice, k: of `NegativeImages`.

    >>> LikelihoodMargin(side="both").form
    'softplus'

    Raises:
        UserError: a value out of its range.
    """

    form: MarginForm = "softplus"
    beta: float = 0.1
    margin: float = 0.0
    side: Side = "image"
    choice: Choice = "nearest"
    k: int = 1

    def __post_init__(self) -> None:
        NegativeImages(self.choice, self.k)
        require(self.side in get_args(Side), "likelihood_margin.side", ", ".join(get_args(Side)), self.side)
        require(
            self.side == "image" or self.choice in ("nearest", "random"),
            "likelihood_margin.choice",
            "nearest or random where side is not image",
            self.choice,
        )
        self._losses(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))

    def __call__(self, batch: EmbeddedBatch, own: TokenLosses, read: ReadReports) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each local study `(B,)`, and scalars to log.

        Args:
            batch: the embeddings of this step.
            own: of the local reports with their images.
            read: reads them with other images.
        """
        index, valid = NegativeImages(self.choice, self.k)(batch)
        own_reports = own.of_reports
        others = torch.stack([read(order).of_reports for order in index.T], dim=1)
        sides = []
        if self.side != "report":
            sides.append(self._losses(own_reports, others, valid))
        if self.side != "image":
            flat = self._losses(own_reports[index].flatten(), others.flatten()[:, None], valid.flatten()[:, None])
            count = (valid & (others - own_reports[index]).detach().isfinite()).sum(1)
            sides.append(flat.view_as(valid).sum(1) / count.clamp_min(1))
        ahead = (others - own_reports[:, None]).detach()
        valid = valid & ahead.isfinite()
        return torch.stack(sides).mean(0), {
            "likelihood_ahead": ahead.where(valid, 0).sum() / valid.sum().clamp_min(1),
            "margin_violated": ((self.beta * ahead < self.margin) & valid).sum() / valid.sum().clamp_min(1),
        }

    def _losses(self, own: Tensor, others: Tensor, valid: Tensor) -> Tensor:
        return likelihood_margin(own, others, valid, form=self.form, beta=self.beta, margin=self.margin)
