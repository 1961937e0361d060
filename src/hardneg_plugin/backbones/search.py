"""Greedy decoding, beam search and sampling over any incremental decoder, for a whole batch at once.

Beam search follows the released R2Gen and R2GenCMN: summed log-probabilities, no length penalty, and the end token takes one
step. The released models lower the score of an ended beam by 1000, where this search drops it. An ended beam may return there,
but only with a score below the recorded one and in place of beams with lower scores still, so the result is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from hardneg_plugin.backbones.decoding import Decoded, DecoderState, Decoding
from hardneg_plugin.backbones.leaving import kept_studies


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
    studies = torch.arange(len(patches), device=patches.device)
    for position in range(decoding.max_length):
        log_probs = decoder.step(newest, state)
        allowed = _without_repeats(log_probs, tokens[studies, :, :position], decoding.no_repeat_ngram_size)
        newest = choose(allowed, decoding) * is_open
        sums[studies] += log_probs.gather(2, newest[..., None])[..., 0] * is_open
        tokens[studies, :, position] = newest
        is_open &= newest > 0
        # who leaves would change which random numbers the others draw
        kept = kept_studies(is_open.any(1), None if decoding.sample else state)
        if kept is not None:
            studies, newest, is_open = studies[kept], newest[kept], is_open[kept]
        if not len(studies):
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
        if is_last:
            break
        kept = kept_studies(records.are_open(sums, position + 1), state)
        if kept is not None:
            records.keep(kept)
            newest, tokens, sums = newest[kept], tokens[kept], sums[kept]
        if not len(newest):
            break
    return records.of_all_studies()


class _Records:
    """The best reports recorded so far, `num_return` per study; only those of studies that are kept can change."""

    def __init__(self, studies: int, decoding: Decoding, device: torch.device) -> None:
        self._decoding = decoding
        shape = (studies, decoding.num_return)
        self._scores = torch.full(shape, -torch.inf, device=device)
        self._best = Decoded(
            torch.zeros(*shape, decoding.max_length, dtype=torch.long, device=device), self._scores.clone()
        )
        self._all = Decoded(self._best.tokens.clone(), self._best.log_probs.clone())
        self._studies = torch.arange(studies, device=device)

    def add(self, tokens: Tensor, sums: Tensor, length: int) -> None:
        """Record beams `(B, k, max_length)` of a length with their sums `(B, k)`, except those of -inf."""
        scores = torch.cat([self._scores, self._ranked(sums, length)], dim=1)
        # stable: of equal scores the first recorded comes first
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        order = order[:, : self._decoding.num_return]
        self._scores = scores[:, : self._decoding.num_return]
        tokens = torch.cat([self._best.tokens, tokens], dim=1)
        self._best = Decoded(
            tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])).masked_fill(
                self._scores[..., None] == -torch.inf, 0
            ),
            torch.cat([self._best.log_probs, sums], dim=1).gather(1, order),
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with these studies, indices into those of now; the reports of the others are final."""
        self._all.tokens[self._studies], self._all.log_probs[self._studies] = self._best.tokens, self._best.log_probs
        self._studies, self._scores = self._studies[rows], self._scores[rows]
        self._best = Decoded(self._best.tokens[rows], self._best.log_probs[rows])

    def of_all_studies(self) -> Decoded:
        """The result, after the last `add`."""
        self.keep(self._studies[:0])
        return self._all

    def are_open(self, sums: Tensor, length: int) -> Tensor:
        """Of which studies a continuation of the open beams, with these sums so far, may still be recorded."""
        # sums only fall; a positive penalty divides them by more the longer the report is
        penalty = self._decoding.length_penalty
        bound = self._ranked(sums, self._decoding.max_length if penalty > 0 else length + 1)
        return ~(self._scores[:, -1] >= bound.amax(1))

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
