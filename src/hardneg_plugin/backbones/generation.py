"""From `Decoding` to the `generate` of transformers, and back to `Decoded`."""

from typing import Any

import torch

from hardneg_plugin.backbones.decoding import Decoded, Decoding


def generation_arguments(decoding: Decoding, *, begin_tokens: int) -> dict[str, Any]:
    """The arguments of `generate` that correspond to `decoding`.

    Args:
        decoding: search or sampling, and its options.
        begin_tokens: how many ids come before the report in what `generate` counts, >= 0; they never repeat.
    """
    from transformers import NoRepeatNGramLogitsProcessor

    options: dict[str, Any] = {"num_beams": 1 if decoding.sample else decoding.beam_size, "do_sample": decoding.sample}
    if decoding.sample:
        options |= {"temperature": decoding.temperature, "top_k": decoding.top_k or 0, "top_p": decoding.top_p or 1.0}
    elif decoding.beam_size > 1:
        # only "never" searches until no better report can follow
        options |= {"length_penalty": decoding.length_penalty, "early_stopping": "never"}
    processors = []
    if decoding.no_repeat_ngram_size:
        forbid = NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size)
        # without the begin token, which is the end token too and must stay possible
        processors.append(lambda ids, scores: forbid(ids[:, begin_tokens:], scores))
    return {
        "max_new_tokens": decoding.max_length,
        "num_return_sequences": decoding.num_return,
        **options,
        "logits_processor": processors,
    }


def best_first(decoded: Decoded, length_penalty: float) -> Decoded:
    """Sort reports by score, and remove those that a beam search repeats because it found too few.

    Args:
        decoded: reports and their log-probabilities.
        length_penalty: as in `Decoding`.
    """
    tokens, sums = decoded.tokens, decoded.log_probs
    is_same = (tokens[:, :, None] == tokens[:, None]).all(-1)
    sums = sums.masked_fill(is_same.tril(-1).any(-1), -torch.inf)
    lengths = ((tokens > 0).sum(-1) + 1).clamp(max=tokens.shape[-1])
    order = (sums / lengths**length_penalty).sort(dim=1, descending=True, stable=True).indices
    sums = sums.gather(1, order)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return Decoded(tokens.masked_fill(sums[..., None] == -torch.inf, 0), sums)
