"""Reports by the `generate` of transformers: its arguments from `Decoding`, and `Decoded` from what it returns."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.huggingface_models import quietly
from hardneg_plugin.errors import UserError

# transformers takes seconds to import: functions import what they need of it.


def decode_by_generate(
    model: Any, decoding: Decoding, inputs: dict[str, Any], *, end_row: int, is_token: Tensor | None = None
) -> Decoded:
    """Reports of a decoder of transformers, in which token 0 is a row of the vocabulary and token `i` row `i - 1`.

    Args:
        model: the decoder, in evaluation mode.
        decoding: search or sampling, and its options.
        inputs: arguments of `generate` that stand for B studies: `input_ids` or `inputs_embeds`, masks, a cache.
        end_row: row of token 0.
        is_token: rows of the vocabulary that may be written, `(rows,)` bool; None: all.

    Raises:
        UserError: `decoding.precision` is given, which `generate` cannot follow.
    """
    if decoding.precision is not None:
        raise UserError(
            f"decoding.precision: expected null for a {type(model).__name__} of transformers, but got {decoding.precision}."
        )
    is_beam_search = not decoding.sample and decoding.beam_size > 1
    begin = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    chosen = _ChosenLogProbs(end_row)
    # in this order: what is forbidden last counts in the log-probabilities
    processors = [] if is_token is None else [_only(is_token)]
    processors += [] if is_beam_search else [chosen]
    processors += [_no_repeat(decoding.no_repeat_ngram_size, begin)] if decoding.no_repeat_ngram_size else []
    with quietly():
        found = model.generate(
            **inputs,
            **_options(decoding),
            logits_processor=processors,
            return_dict_in_generate=True,
            output_scores=is_beam_search,  # else there are no scores of whole beams
            trust_remote_code=False,
        )
    rows = found.sequences[:, begin:]
    tokens = F.pad(torch.where(rows == end_row, 0, rows + 1), (0, decoding.max_length - rows.shape[1]))
    tokens = tokens.unflatten(0, (-1, decoding.num_return))
    if is_beam_search:
        return _best_first(tokens, found.sequences_scores, (found.beam_indices >= 0).sum(1), decoding.length_penalty)
    chosen.add(rows[:, -1])
    return Decoded(tokens, chosen.sums.view(tokens.shape[:2]))


def _options(decoding: Decoding) -> dict[str, Any]:
    options: dict[str, Any] = {"num_beams": 1 if decoding.sample else decoding.beam_size, "do_sample": decoding.sample}
    if decoding.sample:
        options |= {"temperature": decoding.temperature, "top_k": decoding.top_k or 0, "top_p": decoding.top_p or 1.0}
    elif decoding.beam_size > 1:
        # only "never" searches until no better report can follow
        options |= {"length_penalty": decoding.length_penalty, "early_stopping": "never"}
    return {"max_new_tokens": decoding.max_length, "num_return_sequences": decoding.num_return, **options}


def _only(is_token: Tensor) -> Any:
    """A processor of `generate`: log-probabilities over the tokens alone, as `classify` gives them."""

    def only(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(~is_token, -torch.inf).log_softmax(-1)

    return only


def _no_repeat(size: int, begin: int) -> Any:
    """A processor of `generate` that forbids sequences of `size` rows that a report has already, its first `begin` rows left out.

    One row at least is left: an open report may end, and one that has ended is padded with rows that are not read.
    """
    from transformers import NoRepeatNGramLogitsProcessor

    forbid = NoRepeatNGramLogitsProcessor(size)
    return lambda ids, scores: forbid(ids[:, begin:], scores)


class _ChosenLogProbs:
    """A processor of `generate` that changes nothing and sums the log-probabilities of what greedy search or sampling chooses.

    Args:
        end_row: the row that ends a report, the last to count.
    """

    sums: Tensor
    """Of each report so far, the latest row left out until it is added."""

    def __init__(self, end_row: int) -> None:
        self._end_row = end_row
        self._log_probs: Tensor | None = None
        self._is_open = torch.empty(0)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if self._log_probs is None:
            self.sums = scores.new_zeros(len(scores))
            self._is_open = torch.ones_like(self.sums, dtype=torch.bool)
        else:
            self.add(ids[:, -1])
        self._log_probs = scores.log_softmax(-1)
        return scores

    def add(self, rows: Tensor) -> None:
        """Add the chosen rows `(B * R,)` of the latest scores."""
        assert self._log_probs is not None
        log_probs = self._log_probs.gather(1, rows[:, None])[:, 0]
        self.sums = self.sums + log_probs.masked_fill(~self._is_open, 0.0)
        self._is_open = self._is_open & (rows != self._end_row)


def _best_first(tokens: Tensor, scores: Tensor, lengths: Tensor, length_penalty: float) -> Decoded:
    """The reports of a beam search.

    Args:
        tokens: `(B, R, max_length)`.
        scores: of `generate`, `(B * R,)`: the summed log-probability over `length ** length_penalty`.
        lengths: that it counted, `(B * R,)`.
        length_penalty: as in `Decoding`.
    """
    lengths = lengths.clamp(min=1)
    sums = scores * lengths**length_penalty
    # beams that stand in for missing ones start at -1e9
    is_missing = sums < -1e8
    sums, scores = (values.masked_fill(is_missing, -torch.inf).view(tokens.shape[:2]) for values in (sums, scores))
    order = scores.sort(dim=1, descending=True, stable=True).indices
    tokens = tokens.masked_fill(sums[..., None].isneginf(), 0)
    return Decoded(tokens.gather(1, order[..., None].expand_as(tokens)), sums.gather(1, order))
