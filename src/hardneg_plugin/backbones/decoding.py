"""Greedy decoding, beam search and sampling over any incremental decoder, for a whole batch at once.

Beam search follows the released R2Gen and R2GenCMN: summed log-probabilities, no length penalty, and the end token takes one
step. The released models lower the score of an ended beam by 1000, where this search drops it. An ended beam may return there,
but only with a score below the recorded one and in place of beams with lower scores still, so the result is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError, require_count, require_number


@dataclass(frozen=True)
class Decoding:
    """Options of decoding. The defaults are those of the released models.

    Args:
        beam_size: Beams per study, >= 1; 1 is greedy decoding. May exceed the number of tokens.
        max_length: Maximum number of tokens per report, >= 1; the end takes one.
        num_return: Reports per study, best first, >= 1; in a search at most `beam_size`.
        length_penalty: Reports are ranked by their summed log-probability over `length ** length_penalty`, the end
            counted; values above 0 favour longer reports.
        no_repeat_ngram_size: No sequence of this many tokens occurs twice in a report; 0 allows all.
        sample: Sample tokens instead of searching; ignores `beam_size` and `length_penalty`.
        temperature: Divides the log-probabilities before sampling, > 0.
        top_k: Sample from this many likeliest tokens, >= 1; None: from all.
        top_p: Sample from the fewest likeliest tokens of this total probability, in (0, 1]; None: from all.

    Raises:
        UserError: If a value is out of range, or values contradict each other.

    >>> Decoding(beam_size=5, num_return=2).max_length
    60
    """

    beam_size: int = 3
    max_length: int = 60
    num_return: int = 1
    length_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        for name in ("beam_size", "max_length", "num_return"):
            require_count(getattr(self, name), f"decoding.{name}")
        size, top_k, top_p = self.no_repeat_ngram_size, self.top_k, self.top_p
        require_count(size, "decoding.no_repeat_ngram_size", "an integer >= 0", least=0)
        require_number(self.length_penalty, "decoding.length_penalty", "a number")
        require_number(self.temperature, "decoding.temperature", "a number > 0", above=0)
        if top_k is not None:
            require_count(top_k, "decoding.top_k", "a positive integer or None")
        if top_p is not None:
            require_number(top_p, "decoding.top_p", "a number in (0, 1] or None", above=0, most=1)
        if self.sample:
            return
        if self.num_return > self.beam_size:
            raise UserError(
                f"decoding.num_return: expected at most decoding.beam_size={self.beam_size} in a search, but got "
                f"{self.num_return}: increase decoding.beam_size, or set decoding.sample=true."
            )
        if (self.temperature, top_k, top_p) != (1.0, None, None):
            raise UserError("decoding.temperature, top_k and top_p apply to sampling only: set decoding.sample=true.")


class Decoded(NamedTuple):
    """R reports for each of B studies, best first; sampled ones in the order of sampling."""

    tokens: Tensor
    """`(B, R, max_length)` int64; 0 ends and pads."""
    log_probs: Tensor
    """`(B, R)` summed log-probabilities under the model, including the end; -inf where there are fewer than R reports."""
    attention: Tensor | None = None
    """`(B, R, layers, heads, max_length, P)`: attention of each token to the patches; None unless asked for.

    Patches lie view by view: `attention.unflatten(-1, (views, rows, columns))`. Meaningless past the end of a report.
    """


class DecoderState(ABC):
    """State of a decoder for k beams of each of B studies; `step` advances it in place."""

    @abstractmethod
    def select(self, parents: Tensor) -> None:
        """Let each beam continue another one of its study.

        Args:
            parents: `(B, k)` int64 in [0, k): beam `i` of study `b` takes the state of its beam `parents[b, i]`.
        """


class Incremental(ABC):
    """A decoder that reads one token at a time, as search and sampling need it."""

    @abstractmethod
    def start(
        self, patches: Tensor, *, max_length: int, beams: int = 1, patch_mask: Tensor | None = None
    ) -> DecoderState:
        """The state before the first token.

        Args:
            patches: `(B, P, D_v)` image features.
            max_length: Maximum number of steps.
            beams: Beams per study k.
            patch_mask: `(B, P)` bool, True where there is a patch; None: all are there.
        """

    @abstractmethod
    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Read one token per beam and predict the next; advances `state` in place.

        Args:
            tokens: `(B, k)` int64; all 0 at the first step.
            state: From `start`; at most `max_length` steps.

        Returns:
            Log-probabilities `(B, k, V + 1)`.
        """

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """Generate reports in evaluation mode.

        Args:
            patches: `(B, P, D_v)` image features.
            decoding: Search or sampling, and its options.
            patch_mask: `(B, P)` bool, True where there is a patch; None: all are there.
        """
        if decoding.sample:
            return _roll_out(self, patches, decoding, patch_mask, _sample)
        if decoding.beam_size == 1:
            return _roll_out(self, patches, decoding, patch_mask, lambda log_probs, _: log_probs.argmax(-1))
        return _beam_search(self, patches, decoding, patch_mask)


def _roll_out(
    decoder: Incremental,
    patches: Tensor,
    decoding: Decoding,
    patch_mask: Tensor | None,
    choose: Callable[[Tensor, Decoding], Tensor],
) -> Decoded:
    """`num_return` reports per study; `choose` picks each token from log-probabilities `(B, R, V + 1)`."""
    shape = (len(patches), decoding.num_return)
    state = decoder.start(patches, max_length=decoding.max_length, beams=decoding.num_return, patch_mask=patch_mask)
    newest = torch.zeros(shape, dtype=torch.long, device=patches.device)
    tokens = newest.new_zeros(*shape, decoding.max_length)
    sums = torch.zeros(shape, device=patches.device)
    is_open = torch.ones_like(newest, dtype=torch.bool)
    for position in range(decoding.max_length):
        log_probs = decoder.step(newest, state)
        allowed = _without_repeats(log_probs, tokens[..., :position], decoding.no_repeat_ngram_size)
        newest = choose(allowed, decoding) * is_open
        sums += log_probs.gather(2, newest[..., None])[..., 0] * is_open
        tokens[..., position] = newest
        is_open &= newest > 0
        if not is_open.any():
            break
    return Decoded(tokens, sums)


def _sample(log_probs: Tensor, decoding: Decoding) -> Tensor:
    sorted_log_probs, order = (log_probs / decoding.temperature).sort(dim=-1, descending=True)
    probs = sorted_log_probs.softmax(-1)
    if decoding.top_k is not None:
        probs[..., decoding.top_k :] = 0.0
    if decoding.top_p is not None:
        probs = probs / probs.sum(-1, keepdim=True)
        # a token stays if the likelier ones sum to less than top_p: the likeliest always stays
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= decoding.top_p, 0.0)
    sampled = probs.flatten(0, -2).multinomial(1).view(*log_probs.shape[:-1], 1)
    return order.gather(-1, sampled)[..., 0]


def _beam_search(decoder: Incremental, patches: Tensor, decoding: Decoding, patch_mask: Tensor | None) -> Decoded:
    """The best reports of a beam search.

    Each step keeps the `beam_size` best continuations of all beams of a study; the first step expands one beam. A beam that takes
    token 0 is recorded with its score and dropped; the last step records every beam. Of equal scores the first recorded wins,
    within a step the first in the beam.
    """
    studies, beam_size, max_length = len(patches), decoding.beam_size, decoding.max_length
    state = decoder.start(patches, max_length=max_length, beams=beam_size, patch_mask=patch_mask)
    newest = torch.zeros(studies, beam_size, dtype=torch.long, device=patches.device)
    tokens = newest.new_zeros(studies, beam_size, max_length)
    records = _Records(studies, decoding, patches.device)
    # all beams start alike: only the first may be expanded; with few tokens its continuations do not fill the beam, and the rest
    # keeps -inf, which is never recorded
    sums = torch.full((studies, beam_size), -torch.inf, device=patches.device)
    sums[:, 0] = 0.0

    for position in range(max_length):
        log_probs = decoder.step(newest, state)
        allowed = _without_repeats(log_probs, tokens[..., :position], decoding.no_repeat_ngram_size)
        sums, flat = (sums[..., None] + allowed).flatten(1).topk(beam_size)
        parents = flat.div(log_probs.shape[-1], rounding_mode="floor")
        newest = flat % log_probs.shape[-1]
        state.select(parents)
        tokens = tokens.gather(1, parents[..., None].expand_as(tokens))
        tokens[:, :, position] = newest

        ends = newest == 0
        is_last = position == max_length - 1
        records.add(tokens, sums.masked_fill(~(ends | is_last), -torch.inf), position + 1)
        sums = sums.masked_fill(ends, -torch.inf)
        if is_last or records.are_final(sums, position + 1):
            break
    return records.best


class _Records:
    """The best reports recorded so far, `num_return` per study."""

    def __init__(self, studies: int, decoding: Decoding, device: torch.device) -> None:
        self._decoding = decoding
        shape = (studies, decoding.num_return)
        self._scores = torch.full(shape, -torch.inf, device=device)
        self.best = Decoded(
            torch.zeros(*shape, decoding.max_length, dtype=torch.long, device=device), self._scores.clone()
        )

    def add(self, tokens: Tensor, sums: Tensor, length: int) -> None:
        """Record beams `(B, k, max_length)` of a length with their sums `(B, k)`, except those of -inf."""
        scores = torch.cat([self._scores, self._ranked(sums, length)], dim=1)
        # stable: of equal scores the first recorded comes first
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        order = order[:, : self._decoding.num_return]
        self._scores = scores[:, : self._decoding.num_return]
        tokens = torch.cat([self.best.tokens, tokens], dim=1)
        self.best = Decoded(
            tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])).masked_fill(
                self._scores[..., None] == -torch.inf, 0
            ),
            torch.cat([self.best.log_probs, sums], dim=1).gather(1, order),
        )

    def are_final(self, sums: Tensor, length: int) -> bool:
        """Whether no continuation of the open beams, with these sums so far, can still be recorded."""
        # sums only fall; a positive penalty divides them by more the longer the report is
        penalty = self._decoding.length_penalty
        bound = self._ranked(sums, self._decoding.max_length if penalty > 0 else length + 1)
        return bool((self._scores[:, -1] >= bound.amax(1)).all())

    def _ranked(self, sums: Tensor, length: int) -> Tensor:
        ranked: Tensor = sums / length**self._decoding.length_penalty
        return ranked


def _without_repeats(log_probs: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Forbid tokens `(B, k, V + 1)` that would repeat a sequence of `size` tokens in `tokens` `(B, k, t)`."""
    if size == 0 or tokens.shape[-1] < size:
        return log_probs
    windows = tokens.unfold(-1, size, 1)  # (B, k, W, size)
    newest = tokens[..., tokens.shape[-1] - size + 1 :]
    repeats = (windows[..., :-1] == newest[..., None, :]).all(-1)
    # no open report contains the end: it is always allowed, so token 0 can mean "nothing to forbid"
    forbidden = torch.zeros_like(log_probs, dtype=torch.bool).scatter_(-1, windows[..., -1] * repeats, True)
    forbidden[..., 0] = False
    return log_probs.masked_fill(forbidden, -torch.inf)
