"""Weights of tokens in the report loss: those that tell a study from its hard negatives count more."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError, require, require_number
from hardneg_plugin.functional.likelihood import TokenLosses, weights_by_emphasis, weights_by_image, weights_by_text
from hardneg_plugin.objectives.batch import EmbeddedBatch
from hardneg_plugin.objectives.likelihood.negative_images import Choice, NegativeImages, ReadReports


class TokenWeights(Protocol):
    """What `HardNegativeObjective(token_weights=...)` accepts."""

    def __call__(
        self, batch: EmbeddedBatch, own: TokenLosses, read: ReadReports, hardness: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weights `(B, T)` > 0, detached, and scalars to log.

        Args:
            batch: the embeddings of this step.
            own: of the local reports with their images.
            read: reads them with other images.
            hardness: of this step, in [0, 1].
        """
        ...


@dataclass(frozen=True)
class ByImage:
    """A token weighs `1 + a min(|l - l~|, c)`: its loss under the study's image, and under that of a hard negative.

    Costs K passes of the decoder without gradient, none of the image encoder.

    Args:
        scale: a, >= 0.
        limit: c, > 0, in nats, or in multiples of the mean where `relative`.
        relative: differences are divided by their mean over the batch.
        choice, k: of `NegativeImages`.
        hardened: the negative's image moves towards the study's own by the scheduled hardness, as far as the report stays less
            likely with it than with its own by `margin`; two passes for each.
        margin: in nats over a report, >= 0.

    >>> ByImage(scale=2.0, choice="random")
    ByImage(scale=2.0, limit=3.0, relative=False, choice='random', k=1, hardened=False, margin=1.0)
    """

    scale: float = 2.0
    limit: float = 3.0
    relative: bool = False
    choice: Choice = "nearest"
    k: int = 1
    hardened: bool = False
    margin: float = 1.0

    def __post_init__(self) -> None:
        require_number(self.scale, "token_weights.scale", "a number >= 0", least=0)
        require_number(self.limit, "token_weights.limit", "a number > 0", above=0)
        require_number(self.margin, "token_weights.margin", "a number >= 0", least=0)
        NegativeImages(self.choice, self.k)

    @torch.no_grad()
    def __call__(
        self, batch: EmbeddedBatch, own: TokenLosses, read: ReadReports, hardness: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TokenWeights`."""
        index, valid = NegativeImages(self.choice, self.k)(batch)
        others, moved = [], []
        for order in index.T:
            other, way = self._read(own, read, order, hardness)
            others.append(other)
            moved.append(way)
        losses = own.losses.detach()
        stacked = torch.stack(others, dim=1)
        weights = weights_by_image(
            losses, stacked, valid, own.mask, scale=self.scale, limit=self.limit, relative=self.relative
        )
        behind = (stacked - losses[:, None]).where(own.mask[:, None], 0).sum(-1)
        return weights, {
            "negative_image_loss": _mean(stacked.mean(1), own.mask & stacked.mean(1).isfinite()),
            "negative_image_likelier": _mean((behind < 0).float(), valid),
            "moved_towards_own": _mean(torch.stack(moved, dim=1), valid),
        }

    def _read(self, own: TokenLosses, read: ReadReports, order: Tensor, hardness: float) -> tuple[Tensor, Tensor]:
        """Token losses with other images, and how far these were moved."""
        still = torch.zeros(len(order), device=order.device)
        plain = read(order).losses
        if not self.hardened or hardness <= 0:
            return plain, still
        way = torch.full_like(still, hardness)
        hard = read(order, way)
        fits = hard.of_reports >= own.of_reports.detach() + self.margin
        return hard.losses.where(fits[:, None], plain), way.where(fits, 0)


@dataclass(frozen=True)
class ByText:
    """A token weighs `1 + a (share of negative reports that lack it)`: reports alone, without any further pass.

    Args:
        scale: a, >= 0.
        choice: "nearest" or "random" studies of the batch.
        k: reports of each study, a positive integer.

    >>> ByText(k=15)
    ByText(scale=6.0, choice='nearest', k=15)
    """

    scale: float = 6.0
    choice: Choice = "nearest"
    k: int = 4

    def __post_init__(self) -> None:
        require_number(self.scale, "token_weights.scale", "a number >= 0", least=0)
        require(self.choice in ("nearest", "random"), "token_weights.choice", "nearest, random", self.choice)
        NegativeImages(self.choice, self.k)

    @torch.no_grad()
    def __call__(
        self, batch: EmbeddedBatch, own: TokenLosses, read: ReadReports, hardness: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TokenWeights`."""
        if own.tokens is None:
            raise UserError("token_weights by text need the tokens of the reports: give TokenLosses(tokens=(B, T)).")
        index, valid = NegativeImages(self.choice, self.k)(batch)
        return weights_by_text(own.tokens, own.mask, index, valid, scale=self.scale), {}


@dataclass(frozen=True)
class ByEmphasis:
    """A token weighs `1 + a e`, e its emphasis in [0, 1] that comes with the batch: what needs no other study of it.

    In the trainer the data module computes e over the training reports (`data.token_emphasis`).

    Args:
        scale: a, >= 0.

    >>> ByEmphasis(scale=4.0)
    ByEmphasis(scale=4.0)
    """

    scale: float = 6.0

    def __post_init__(self) -> None:
        require_number(self.scale, "token_weights.scale", "a number >= 0", least=0)

    @torch.no_grad()
    def __call__(
        self, batch: EmbeddedBatch, own: TokenLosses, read: ReadReports, hardness: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TokenWeights`."""
        if own.emphasis is None:
            raise UserError(
                "token_weights by emphasis need that of each token: give TokenLosses(emphasis=(B, T)); with hardneg-train choose "
                "token_weights=by_frequency, finding_words or by_training_reports, which set data.emphasis."
            )
        return weights_by_emphasis(own.emphasis, scale=self.scale), {}


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    return values.where(kept, 0).sum() / kept.sum().clamp_min(1)
