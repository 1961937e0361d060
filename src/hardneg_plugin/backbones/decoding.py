"""Greedy decoding, beam search and sampling over any incremental decoder, for a whole batch at once.

The rules of beam search are those of the released R2Gen and R2GenCMN models: summed log-probabilities, no length penalty,
the end word taking one step. Those models push an ended beam down by 1000 where this search drops it. It can come back
there, but only with sums below the one it was recorded with, in place of beams that are below it too: the result is the
same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How reports are written. The defaults are the released ones; everything else is off.

    Args:
        beam_size: Beams per study; 1 is greedy decoding. May exceed the number of words.
        max_length: Most words per report; the end takes one.
        num_return: Reports per study, best first; in a search at most `beam_size`.
        length_penalty: Reports are ranked by their summed log-probability over `length ** length_penalty`, the end
            counted; above 0 favours longer ones.
        no_repeat_ngram_size: No sequence of so many words comes twice in a report; 0 allows all.
        sample: Draw words instead of searching; `beam_size` and `length_penalty` have no say then.
        temperature: Divides the log-probabilities that are drawn from.
        top_k: Draw from so many likeliest words; None: from all.
        top_p: Draw from the fewest likeliest words that hold this much probability; None: from all.

    Raises:
        UserError: If a value is out of range, or asks for what the others rule out.
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
            _check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _check(self.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "at least 0", self.no_repeat_ngram_size)
        _check(self.temperature > 0, "temperature", "above 0", self.temperature)
        _check(self.top_k is None or self.top_k >= 1, "top_k", "at least 1, or none", self.top_k)
        _check(self.top_p is None or 0 < self.top_p <= 1, "top_p", "above 0 and at most 1, or none", self.top_p)
        if self.sample:
            return
        if self.num_return > self.beam_size:
            raise UserError(
                f"A search with decoding.beam_size={self.beam_size} has not {self.num_return} reports to return "
                "(decoding.num_return): widen the beam, or set decoding.sample=true."
            )
        if (self.temperature, self.top_k, self.top_p) != (1.0, None, None):
            raise UserError("decoding.temperature, top_k and top_p need decoding.sample=true: a search draws no words.")


class Decoded(NamedTuple):
    """R reports for each of B studies, best first (sampled ones in the order they were drawn)."""

    tokens: Tensor
    """`(B, R, max_length)` int64; 0 ends and pads."""
    log_probs: Tensor
    """`(B, R)` summed log-probabilities under the model, the end among them; -inf where there were fewer reports."""
    attention: Tensor | None = None
    """`(B, R, layers, heads, max_length, P)`: with what attention to the patches each word was written, if asked for.

    Patches lie view by view: `attention.unflatten(-1, (views, rows, columns))`. Past the end of a report it means nothing.
    """


class DecoderState(ABC):
    """What a decoder remembers of the words so far, for k beams of each of B studies; `step` advances it in place."""

    @abstractmethod
    def select(self, parents: Tensor) -> None:
        """Let each beam go on from another beam of its study.

        Args:
            parents: `(B, k)` int64 in [0, k): beam `i` of study `b` takes over what beam `parents[b, i]` remembers.
        """


class Incremental(ABC):
    """What searching and sampling need of a decoder: that it reads one token at a time."""

    @abstractmethod
    def start(
        self, patches: Tensor, *, max_length: int, beams: int = 1, patch_mask: Tensor | None = None
    ) -> DecoderState:
        """The state before the first word, with room for `max_length` words and `beams` beams per study."""

    @abstractmethod
    def step(self, words: Tensor, state: DecoderState) -> Tensor:
        """Read one word per beam and predict the next; advances `state` in place.

        Args:
            words: `(B, k)` int64; all 0 at the first step.
            state: From `start`; at most `max_length` steps.

        Returns:
            Log-probabilities `(B, k, V + 1)`.
        """


def decode(decoder: Incremental, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
    """Write reports as `decoding` says, with a decoder in evaluation mode.

    Args:
        decoder: Reads one word at a time.
        patches: `(B, P, D_v)` image features.
        decoding: How to search, or sample.
        patch_mask: `(B, P)` bool, True where there is a patch; None if there are all.
    """
    if decoding.sample:
        return _roll_out(decoder, patches, decoding, patch_mask, _draw)
    if decoding.beam_size == 1:
        return _roll_out(decoder, patches, decoding, patch_mask, lambda log_probs, _: log_probs.argmax(-1))
    return _beam_search(decoder, patches, decoding, patch_mask)


def _roll_out(
    decoder: Incremental,
    patches: Tensor,
    decoding: Decoding,
    patch_mask: Tensor | None,
    choose: Callable[[Tensor, Decoding], Tensor],
) -> Decoded:
    """`num_return` reports per study, each word chosen by itself from `(B, R, V + 1)` log-probabilities."""
    shape = (len(patches), decoding.num_return)
    state = decoder.start(patches, max_length=decoding.max_length, beams=decoding.num_return, patch_mask=patch_mask)
    words = torch.zeros(shape, dtype=torch.long, device=patches.device)
    tokens = words.new_zeros(*shape, decoding.max_length)
    sums = torch.zeros(shape, device=patches.device)
    is_open = torch.ones_like(words, dtype=torch.bool)
    for position in range(decoding.max_length):
        log_probs = decoder.step(words, state)
        allowed = _without_repeats(log_probs, tokens[..., :position], decoding.no_repeat_ngram_size)
        words = choose(allowed, decoding) * is_open
        sums += log_probs.gather(2, words[..., None])[..., 0] * is_open
        tokens[..., position] = words
        is_open &= words > 0
        if not is_open.any():
            break
    return Decoded(tokens, sums)


def _draw(log_probs: Tensor, decoding: Decoding) -> Tensor:
    sorted_log_probs, order = (log_probs / decoding.temperature).sort(dim=-1, descending=True)
    probs = sorted_log_probs.softmax(-1)
    if decoding.top_k is not None:
        probs[..., decoding.top_k :] = 0.0
    if decoding.top_p is not None:
        probs = probs / probs.sum(-1, keepdim=True)
        # A word stays if those before it hold less than top_p: the likeliest always does.
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= decoding.top_p, 0.0)
    drawn = probs.flatten(0, -2).multinomial(1).view(*log_probs.shape[:-1], 1)
    return order.gather(-1, drawn)[..., 0]


def _beam_search(decoder: Incremental, patches: Tensor, decoding: Decoding, patch_mask: Tensor | None) -> Decoded:
    """The best of the reports that a beam meets.

    At each step the `beam_size` best continuations of all beams of a study survive; the first step expands one beam. A beam
    that takes word 0 is recorded with its score and dropped. At the last step every beam is recorded. Of equal scores the
    first recorded wins, within a step the first in the beam.
    """
    studies, beam_size, max_length = len(patches), decoding.beam_size, decoding.max_length
    state = decoder.start(patches, max_length=max_length, beams=beam_size, patch_mask=patch_mask)
    words = torch.zeros(studies, beam_size, dtype=torch.long, device=patches.device)
    tokens = words.new_zeros(studies, beam_size, max_length)
    records = _Records(studies, decoding, patches.device)
    # All beams start alike: only the first may be expanded. With few words its continuations do not fill the beam, and
    # the places left over keep -inf, which is never recorded.
    sums = torch.full((studies, beam_size), -torch.inf, device=patches.device)
    sums[:, 0] = 0.0

    for position in range(max_length):
        log_probs = decoder.step(words, state)
        allowed = _without_repeats(log_probs, tokens[..., :position], decoding.no_repeat_ngram_size)
        sums, flat = (sums[..., None] + allowed).flatten(1).topk(beam_size)
        parents = flat.div(log_probs.shape[-1], rounding_mode="floor")
        words = flat % log_probs.shape[-1]
        state.select(parents)
        tokens = tokens.gather(1, parents[..., None].expand_as(tokens))
        tokens[:, :, position] = words

        ends = words == 0
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
        """Record beams `(B, k, max_length)` of a length by their sums `(B, k)`; those of -inf are left out."""
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
        """Whether nothing that open beams, with sums so far, can still become would be recorded."""
        # Sums only fall. Over a longer length they count for more where the penalty is positive, for less where not.
        penalty = self._decoding.length_penalty
        bound = self._ranked(sums, self._decoding.max_length if penalty > 0 else length + 1)
        return bool((self._scores[:, -1] >= bound.amax(1)).all())

    def _ranked(self, sums: Tensor, length: int) -> Tensor:
        ranked: Tensor = sums / length**self._decoding.length_penalty
        return ranked


def _without_repeats(log_probs: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Forbid words `(B, k, V + 1)` that would repeat a sequence of `size` words in `tokens` `(B, k, t)`."""
    if size == 0 or tokens.shape[-1] < size:
        return log_probs
    seen = tokens.unfold(-1, size, 1)  # (B, k, windows, size)
    newest = tokens[..., tokens.shape[-1] - size + 1 :]
    repeats = (seen[..., :-1] == newest[..., None, :]).all(-1)
    # The end is in no open report: it is always allowed, so word 0 can stand for "nothing to forbid".
    forbidden = torch.zeros_like(log_probs, dtype=torch.bool).scatter_(-1, seen[..., -1] * repeats, True)
    forbidden[..., 0] = False
    return log_probs.masked_fill(forbidden, -torch.inf)


def _check(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise UserError(f"decoding.{name}: expected {expected}, but got {value}.")
