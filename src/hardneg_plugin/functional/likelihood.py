"""Losses of a report's tokens, compared between a study's own image and another one.

A token loss is the negative log-probability of a token, given the tokens before it and an image. Tokens that do not depend on the
image have the same loss under both.
"""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.errors import require, require_number
from hardneg_plugin.functional.pooling import mean_where

MarginForm = Literal["softplus", "hinge", "info_nce"]


class TokenLosses(NamedTuple):
    """The teacher-forced reports of B studies, token by token.

    >>> TokenLosses(torch.tensor([[0.5, 2.0]]), torch.tensor([[True, False]])).of_reports
    tensor([0.5000])
    """

    losses: Tensor
    """`(B, T)` >= 0: negative log-probability of each token, whatever it is where none counts."""
    mask: Tensor
    """`(B, T)` bool, True where a token counts."""
    tokens: Tensor | None = None
    """`(B, T)` int64 >= 0, for weights by text."""
    emphasis: Tensor | None = None
    """`(B, T)` in [0, 1], for weights by emphasis; whatever it is where none counts."""

    @property
    def of_reports(self) -> Tensor:
        """`(B,)`, the sums over tokens."""
        return self.losses.where(self.mask, 0).sum(1)

    @classmethod
    def of_logits(cls, logits: Tensor, labels: Tensor, ignored: int = -100) -> "TokenLosses":
        """Cross-entropy of each label.

        Args:
            logits: `(B, T, V)`; position t predicts label t. Those of a causal model of transformers predict the next label: pass
                `logits[:, :-1]` and `labels[:, 1:]`.
            labels: `(B, T)` int64.
            ignored: the label of positions that do not count.

        >>> TokenLosses.of_logits(torch.zeros(1, 2, 4), torch.tensor([[3, -100]])).of_reports  # log 4
        tensor([1.3863])
        """
        mask = labels != ignored
        tokens = labels.where(mask, 0)
        losses = F.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none")
        return cls(losses, mask, tokens)


def token_losses(log_probs: Tensor, tokens: Tensor, token_mask: Tensor) -> TokenLosses:
    """Negative log-probability of each token of a report, the end included.

    Args:
        log_probs: `(B, T - 1, V + 1)`, teacher-forced.
        tokens: `(B, T)` int64, `[0, tokens..., 0, padding 0...]`.
        token_mask: `(B, T)` bool, True over `[0, tokens..., 0]`.

    >>> log_probs = torch.full((1, 3, 5), -2.0)
    >>> token_losses(log_probs, torch.tensor([[0, 4, 0, 0]]), torch.tensor([[True, True, True, False]])).of_reports
    tensor([4.])
    """
    losses = -log_probs.gather(2, tokens[:, 1:, None])[:, :, 0]
    return TokenLosses(losses, token_mask[:, 1:], tokens[:, 1:])


def from_first_difference(own: TokenLosses, other: TokenLosses) -> tuple[Tensor, Tensor]:
    """Losses of two versions of B reports `(B,)`, summed over the tokens from the first one that differs.

    Earlier tokens have the same loss in both, but for what dropout draws.

    Args:
        own: with tokens.
        other: with tokens, of B reports of any length.

    >>> one = TokenLosses(torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([[5, 6, 0]]))
    >>> two = TokenLosses(torch.tensor([[9.0, 4.0]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[5, 0]]))
    >>> from_first_difference(one, two)
    (tensor([5.]), tensor([4.]))

    Raises:
        ValueError: no tokens.
    """
    if own.tokens is None or other.tokens is None:
        raise ValueError(
            "Expected TokenLosses(tokens=(B, T)), but got none: without them it is not known where they differ."
        )
    length = min(own.tokens.shape[1], other.tokens.shape[1])
    is_same = (own.tokens[:, :length] == other.tokens[:, :length]) & own.mask[:, :length] & other.mask[:, :length]
    start = is_same.long().cumprod(1).sum(1, keepdim=True)

    def rest(read: TokenLosses) -> Tensor:
        place = torch.arange(read.mask.shape[1], device=start.device)
        return read.losses.where(read.mask & (place >= start), 0).sum(1)

    return rest(own), rest(other)


def mean_token_loss(losses: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """`Σ w l / Σ w` over all tokens that count, a scalar.

    Args:
        losses: l, `(B, T)`.
        mask: `(B, T)` bool.
        weights: w, `(B, T)` > 0; None: all 1.

    >>> losses, mask = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])
    >>> mean_token_loss(losses, mask), mean_token_loss(losses, mask, torch.tensor([[1.0, 3.0, 9.0]]))
    (tensor(2.), tensor(2.5000))
    """
    kept = mask.to(losses.dtype) if weights is None else weights.where(mask, 0)
    return (losses.where(mask, 0) * kept).sum() / kept.sum().clamp_min(torch.finfo(losses.dtype).tiny)


@torch.no_grad()
def weights_by_image(
    own: Tensor,
    others: Tensor,
    valid: Tensor,
    mask: Tensor,
    *,
    scale: float = 2.0,
    limit: float = 3.0,
    relative: bool = False,
) -> Tensor:
    """Tokens weigh more the more their loss differs under the images of hard negatives: `1 + a min(d, c)`.

    `d` is the mean of `|l - l~|` over the study's negatives. With `relative`, it is divided by its mean over the batch, so that
    weights do not shrink as the negatives' images come near.

    Args:
        own: l, `(B, T)` token losses under a study's image.
        others: l~, `(B, K, T)`, under the images of its negatives; NaN counts as no negative.
        valid: `(B, K)` bool; a study without a negative has weights of 1.
        mask: `(B, T)` bool, the tokens that count.
        scale: a, >= 0.
        limit: c, > 0.
        relative: divide by the mean.

    Returns:
        `(B, T)`, detached, from 1 to 1 + a c.

    >>> mask, valid = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    >>> weights_by_image(torch.tensor([[0.5, 1.0]]), torch.tensor([[[0.5, 2.0]]]), valid, mask)
    tensor([[1., 3.]])
    """
    differences = (own[:, None] - others).abs().transpose(1, 2)
    kept = valid[:, None] & ~differences.isnan()
    mean = mean_where(differences.where(kept, 0), kept).where(mask, 0)
    if relative:
        counts = mask & valid.any(1, keepdim=True) & mean.isfinite()
        of_batch = mean.where(counts, 0).sum() / counts.sum().clamp_min(1)
        mean = mean / of_batch.clamp_min(torch.finfo(mean.dtype).eps)
    return 1 + scale * mean.clamp_max(limit)


@torch.no_grad()
def weights_by_text(tokens: Tensor, mask: Tensor, index: Tensor, valid: Tensor, *, scale: float = 6.0) -> Tensor:
    """Tokens weigh more the fewer of the study's negative reports have them: `1 + a (share of reports without it)`.

    Args:
        tokens: `(B, T)` int64 >= 0.
        mask: `(B, T)` bool, the tokens that count.
        index: `(B, K)` int64, the rows of a study's negatives.
        valid: `(B, K)` bool; a study without a negative has weights of 1.
        scale: a, >= 0.

    Returns:
        `(B, T)`, from 1 to 1 + a.

    >>> tokens = torch.tensor([[5, 7], [5, 8]])
    >>> valid = torch.ones(2, 1, dtype=torch.bool)
    >>> weights_by_text(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor([[1], [0]]), valid)
    tensor([[1., 7.],
            [1., 7.]])
    """
    lacking = torch.zeros_like(tokens)
    for others, kept in zip(index.T, valid.T, strict=True):  # each compares T with T tokens
        has = (tokens[:, :, None] == tokens[others, None]) & mask[others, None]
        lacking += ~has.any(2) & kept[:, None]
    return 1 + scale * lacking / valid.sum(1, keepdim=True).clamp_min(1)


@torch.no_grad()
def weights_by_emphasis(emphasis: Tensor, *, scale: float) -> Tensor:
    """Tokens weigh more the more they are emphasised: `1 + a e`.

    Args:
        emphasis: e, `(B, T)` in [0, 1].
        scale: a, >= 0.

    Returns:
        `(B, T)`, detached, from 1 to 1 + a.

    >>> weights_by_emphasis(torch.tensor([[0.0, 0.5, 1.0]]), scale=4.0)
    tensor([[1., 3., 5.]])
    """
    return 1 + scale * emphasis


def likelihood_margin(
    own: Tensor,
    others: Tensor,
    valid: Tensor,
    *,
    form: MarginForm = "softplus",
    beta: float = 0.1,
    margin: float = 0.0,
) -> Tensor:
    """How far a report is from being likelier with its study than with its negatives.

    With log-likelihoods `s`: "softplus" is the mean over K of `softplus(margin - β (s_ii - s_ij))`, "hinge" that of
    `relu(margin - β (s_ii - s_ij))`, "info_nce" is `-log( e^{β s_ii} / ( e^{β s_ii} + Σ_j e^{β s_ij + margin} ) )`.

    Args:
        own: `-s_ii`, `(B,)`: loss of each report, summed over tokens.
        others: `-s_ij`, `(B, K)`: of the same report with the images of its negatives, or of their reports with its image.
        valid: `(B, K)` bool; a study without a negative has a loss of 0. One whose loss is not finite, or that of its study, counts
            as none.
        form: of the loss.
        beta: β, > 0, of a difference in nats.
        margin: >= 0.

    Returns:
        `(B,)`.

    Raises:
        UserError: a number or a form that is not one of these.

    >>> likelihood_margin(torch.tensor([10.0]), torch.tensor([[10.0]]), torch.tensor([[True]]))  # log 2
    tensor([0.6931])
    """
    require(form in get_args(MarginForm), "likelihood.form", ", ".join(get_args(MarginForm)), form)
    require_number(beta, "likelihood.beta", "a number > 0", above=0)
    require_number(margin, "likelihood.margin", "a number >= 0", least=0)
    valid = valid & (others - own[:, None]).detach().isfinite()
    ahead = (beta * (others - own[:, None])).where(valid, torch.inf)
    if form == "info_nce":
        return torch.cat([torch.zeros_like(own)[:, None], (margin - ahead).where(valid, -torch.inf)], dim=1).logsumexp(
            dim=1
        )
    violated = (margin - ahead).where(valid, 0)
    losses = F.softplus(violated) if form == "softplus" else F.relu(violated)
    return mean_where(losses.where(valid, 0), valid)
