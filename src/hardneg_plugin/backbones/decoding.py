"""Greedy and beam search over any report decoder, for a whole batch at once.

The rules are those of the released R2Gen and R2GenCMN models: summed log-probabilities, no length penalty, the end word
taking one step. Those models push an ended beam down by 1000 where this search drops it. It can come back there, but only
with sums below the one it was recorded with, in place of beams that are below it too: the result is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hardneg_plugin.backbones.decoder import ReportDecoder


def greedy(decoder: ReportDecoder, patches: Tensor, *, max_length: int, patch_mask: Tensor | None = None) -> Tensor:
    """The likeliest word at each step.

    Args:
        decoder: A decoder in evaluation mode.
        patches: `(B, P, D_v)` image features.
        max_length: Most words per report, at least 1; the end takes one.
        patch_mask: `(B, P)` bool, True where there is a patch; None if there are all.

    Returns:
        `(B, max_length)` int64; 0 ends and pads.

    Raises:
        ValueError: If `max_length` is below 1.
    """
    _check_at_least_one("max_length", max_length)
    state = decoder.start(patches, max_length=max_length, patch_mask=patch_mask)
    tokens = torch.zeros(len(patches), max_length, dtype=torch.long, device=patches.device)
    words = tokens.new_zeros(len(patches), 1)
    is_open = torch.ones_like(words, dtype=torch.bool)
    for position in range(max_length):
        words = decoder.step(words, state).argmax(-1) * is_open
        tokens[:, position] = words[:, 0]
        is_open &= words > 0
        if not is_open.any():
            break
    return tokens


def beam_search(
    decoder: ReportDecoder, patches: Tensor, *, beam_size: int, max_length: int, patch_mask: Tensor | None = None
) -> Tensor:
    """The best of the reports that a beam of `beam_size` meets, by summed log-probability.

    At each step the `beam_size` best continuations of all beams of a study survive; the first step expands one beam. A
    beam that takes word 0 is recorded with its sum and dropped. At the last step every beam is
    recorded. The result is the recorded beam of greatest sum: of equal sums the first recorded, within a step the first
    in the beam.

    Args:
        decoder: A decoder in evaluation mode.
        patches: `(B, P, D_v)` image features.
        beam_size: Beams per study k, at least 1; may exceed the number of words.
        max_length: Most words per report, at least 1; the end takes one.
        patch_mask: `(B, P)` bool, True where there is a patch; None if there are all.

    Returns:
        `(B, max_length)` int64; 0 ends and pads.

    Raises:
        ValueError: If `beam_size` or `max_length` is below 1.
    """
    _check_at_least_one("beam_size", beam_size)
    _check_at_least_one("max_length", max_length)
    studies = len(patches)
    state = decoder.start(patches, max_length=max_length, beams=beam_size, patch_mask=patch_mask)
    words = torch.zeros(studies, beam_size, dtype=torch.long, device=patches.device)
    tokens = words.new_zeros(studies, beam_size, max_length)
    best_tokens = words.new_zeros(studies, max_length)
    best = torch.full((studies,), -torch.inf, device=patches.device)
    # All beams start alike: only the first may be expanded. With few words its continuations do not fill the beam, and
    # the places left over keep -inf, which is never recorded.
    sums = torch.full((studies, beam_size), -torch.inf, device=patches.device)
    sums[:, 0] = 0.0

    for position in range(max_length):
        log_probs = decoder.step(words, state)
        sums, flat = (sums[..., None] + log_probs).flatten(1).topk(beam_size)
        parents = flat.div(log_probs.shape[-1], rounding_mode="floor")
        words = flat % log_probs.shape[-1]
        state.select(parents)
        tokens = tokens.gather(1, parents[..., None].expand_as(tokens))
        tokens[:, :, position] = words

        ends = words == 0
        is_recorded = torch.ones_like(ends) if position == max_length - 1 else ends
        record, beam = sums.masked_fill(~is_recorded, -torch.inf).max(1)
        is_better = record > best
        best = torch.where(is_better, record, best)
        best_tokens = torch.where(
            is_better[:, None], tokens[torch.arange(studies, device=beam.device), beam], best_tokens
        )
        sums = sums.masked_fill(ends, -torch.inf)
        # Sums only fall and the first of equal sums wins, so nothing that is still to come can replace these.
        if (best >= sums.amax(1)).all():
            break
    return best_tokens


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"Expected `{name}` of at least 1, but got {value}.")
