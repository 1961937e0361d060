"""Any causal language model of Hugging Face transformers that can cross-attend, as a report decoder."""

import copy
import inspect
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.decoder import ReportDecoder
from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.huggingface_models import (
    INSTEAD,
    build,
    config_from_values,
    config_of,
    first_line,
    first_position,
    load,
    make_word_0_begin_and_end,
    quietly,
)
from hardneg_plugin.backbones.layers import PatchPositions, attention_mask
from hardneg_plugin.errors import UserError

# transformers takes seconds to import: functions import what they need of it.


class HuggingFaceDecoder(ReportDecoder):
    """GPT-2, BERT, RoBERTa, BART, ...: a model of `AutoModelForCausalLM` whose words attend to the projected patches.

    Word `i` is row `i - 1` of the model's vocabulary, as `HuggingFaceTokenizer` has it, and word 0 (begin, end and padding)
    is row V, the last: pretrained rows keep their meaning, and the model's own begin, end and padding tokens are words like
    any other. Row V starts as the mean of the pretrained rows. Searches are those of the model's own `generate`, in which
    a beam that ends leaves its place to the next best.

    Args:
        vocab_size: Number of words V. For pretrained weights as many as the model has rows, or fewer where its rows are
            padded to a multiple of a power of two; the rows left over are dropped.
        patch_width: Width `D_v` of the patch features.
        name_or_path: A name on the hub, or a folder with a `config.json` and weights. Its attention to the image starts
            random, unless it was saved with one.
        config: Where there is no `name_or_path`: the `model_type` and the values of its config that differ from the
            defaults, for a decoder of random weights.
        pretrained: Start from the weights of `name_or_path`; False reads its config only.
        max_patches: Learn one position per patch index, for so many patches; None adds no positions.

    Raises:
        UserError: If the model cannot be built or loaded, does not cross-attend, or is of another vocabulary; if an image
            has more than `max_patches` patches, or a report more words than the model has positions.
    """

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        name_or_path: str | None = None,
        config: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        max_patches: int | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        with quietly():
            settings = config_from_values(config) if name_or_path is None else config_of(name_or_path)
            settings.is_decoder, settings.add_cross_attention = True, True
            if name_or_path is not None and pretrained:
                self.model = load(name_or_path, settings, vocab_size)
            else:
                settings.vocab_size = vocab_size + 1
                self.model = build(settings)
        make_word_0_begin_and_end(self.model, vocab_size)
        self.width: int = self.model.config.hidden_size
        image_width = getattr(self.model.config, "cross_attention_hidden_size", None) or self.width
        self.project = nn.Linear(patch_width, image_width)
        self.patch_positions = None if max_patches is None else PatchPositions(max_patches, image_width)
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self._first_position = first_position(self.model)
        self.eval()
        self._check_parts()
        self.train()  # transformers loads models in evaluation mode

    @property
    def settings(self) -> dict[str, Any]:
        """`config` in full, in place of a name or a folder."""
        return {"name_or_path": None, "config": self.model.config.to_dict()}

    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Last hidden states `(B, T - 1, width)`, teacher-forced."""
        return self._read(tokens, **self._image(patches, patch_mask))

    def text_states(self, tokens: Tensor) -> Tensor:
        """The same with every attention to the image left out."""
        return self._read(tokens)

    @property
    def word_embedding(self) -> nn.Embedding:
        """As transformers has it; some models have it narrower than their states."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """`(B, T - 1, D)`, D the width of the embeddings."""
        embedded: Tensor = self.word_embedding((tokens[:, 1:] - 1) % (self.vocab_size + 1))
        return embedded

    def classify(self, states: Tensor) -> Tensor:
        """Log-probabilities `(..., V + 1)` in float32."""
        # The head is whatever follows the base model: one layer in GPT-2, a layer within a block in BERT.
        for name, part in self.model.named_children():
            if name != self.model.base_model_prefix:
                states = part(states)
        return F.log_softmax(states.roll(1, dims=-1), dim=-1, dtype=torch.float32)

    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """How much each word attended to each patch: `(B, layers, heads, T - 1, P)`, teacher-forced, no dropout."""
        # A twin of the same weights: what makes it give its attention away stays with it, and so does evaluation mode.
        tensors = {id(tensor): tensor for tensor in chain(self.model.parameters(), self.model.buffers())}
        twin = copy.deepcopy(self.model, tensors).eval()
        twin.set_attn_implementation("eager")
        inputs = self._inputs(tokens) | self._image(patches, patch_mask)
        maps = twin.base_model(**inputs, output_attentions=True).cross_attentions
        return torch.stack(maps, dim=1)

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """Beam search, greedy decoding or sampling by the model's own `generate`."""
        self._check_length(decoding.max_length)
        begin = torch.full((len(patches), 1), self.vocab_size, device=patches.device)
        inputs = {
            "attention_mask": torch.ones_like(begin),
            **self._positions(begin),
            **self._image(patches, patch_mask),
        }
        with quietly():
            ids = self.model.generate(begin, **inputs, **_generation_arguments(decoding, self.vocab_size))
        words = (ids[:, 1:] + 1) % (self.vocab_size + 1)
        tokens = F.pad(words, (0, decoding.max_length - words.shape[1])).unflatten(0, (len(patches), -1))
        sums = [self._log_prob(patches, report, patch_mask) for report in tokens.unbind(1)]
        decoded = Decoded(tokens, torch.stack(sums, dim=1))
        return decoded if decoding.sample else _best_first(decoded, decoding.length_penalty)

    def _read(self, tokens: Tensor, **image: Tensor | None) -> Tensor:
        states: Tensor = self.model.base_model(**self._inputs(tokens), **image).last_hidden_state
        return states

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        words = tokens[:, :-1]
        self._check_length(words.shape[1])
        is_kept = words > 0
        is_kept[:, 0] = True  # the begin word; later zeros pad
        ids = (words - 1) % (self.vocab_size + 1)
        return {"input_ids": ids, "attention_mask": is_kept.long(), "use_cache": False, **self._positions(ids)}

    def _positions(self, ids: Tensor) -> dict[str, Tensor]:
        # Given, as some models take them from where their own padding token stands, and otherwise when they generate.
        if not self._takes_positions:
            return {}
        positions = torch.arange(ids.shape[1], device=ids.device) + self._first_position
        return {"position_ids": positions.expand_as(ids)}

    def _image(self, patches: Tensor, patch_mask: Tensor | None) -> dict[str, Tensor | None]:
        x = self.project(patches)
        if self.patch_positions is not None:
            x = self.patch_positions(x)
        mask = attention_mask(patch_mask)
        return {"encoder_hidden_states": x, "encoder_attention_mask": None if mask is None else mask[:, 0, 0].long()}

    def _log_prob(self, patches: Tensor, tokens: Tensor, patch_mask: Tensor | None) -> Tensor:
        """Of reports `(B, T)` without their begin word, the end counted: `(B,)`."""
        rows = F.pad(tokens, (1, 0))
        log_probs = self.log_probs(patches, rows, patch_mask=patch_mask).gather(2, tokens[..., None])[..., 0]
        is_counted = rows[:, :-1] > 0  # what follows a word is a word or the end
        is_counted[:, 0] = True
        return (log_probs * is_counted).sum(1)

    def _check_length(self, words: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and words > most - self._first_position:
            raise UserError(
                f"{type(self.model).__name__} has positions for {most - self._first_position} words, but got {words}: "
                "shorten the reports (data.max_length, decoding.max_length), or take a model of more positions."
            )

    @torch.no_grad()
    def _check_parts(self) -> None:
        """The model must attend to the image, and nothing but the head may follow its base model."""
        name = type(self.model).__name__
        count = 3 if self.patch_positions is None else min(3, self.patch_positions.num_embeddings)
        patches, tokens = torch.ones(1, count, self.project.in_features), torch.zeros(1, 2, dtype=torch.long)
        patch_mask = torch.ones(1, count, dtype=torch.bool)
        try:
            states, text_states = self.states(patches, tokens, patch_mask=patch_mask), self.text_states(tokens)
            found = self.classify(states)
            logits = self.model(**self._inputs(tokens), **self._image(patches, patch_mask)).logits
            self.search(patches, Decoding(beam_size=1, max_length=2), patch_mask=patch_mask)
        except Exception as error:  # attention to an image is a path that some models offer and cannot go
            raise UserError(f"{name} cannot attend to an image: {first_line(error)}. {INSTEAD}") from error
        if torch.equal(states, text_states):
            raise UserError(f"Expected a decoder that attends to an image, but {name} passes it over. {INSTEAD}")
        expected = logits.roll(1, dims=-1).log_softmax(-1)
        if found.shape[-1] != self.vocab_size + 1 or not torch.allclose(found, expected, atol=1e-3):
            raise UserError(
                f"Expected a model of one vocabulary, whose head alone follows its last hidden states, but {name} is "
                f"built otherwise. {INSTEAD}"
            )


def _generation_arguments(decoding: Decoding, end: int) -> dict[str, Any]:
    """The arguments of `generate` that do what `decoding` says."""
    from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, NoRepeatNGramLogitsProcessor

    options: dict[str, Any] = {"num_beams": 1 if decoding.sample else decoding.beam_size, "do_sample": decoding.sample}
    if decoding.sample:
        options |= {"temperature": decoding.temperature, "top_k": decoding.top_k or 0, "top_p": decoding.top_p or 1.0}
    elif decoding.beam_size > 1:
        # Only "never" goes on until nothing better can come.
        options |= {"length_penalty": decoding.length_penalty, "early_stopping": "never"}
    processors = []
    if decoding.no_repeat_ngram_size:
        forbid = NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size)
        # Without the begin word, which is the end word too: that one may come once more.
        processors.append(lambda ids, scores: forbid(ids[:, 1:], scores))
    return {
        "generation_config": GenerationConfig(
            max_new_tokens=decoding.max_length,
            num_return_sequences=decoding.num_return,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            **options,
        ),
        "logits_processor": processors,
        # `generate` makes the one for the image for encoder-decoder models only.
        "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache()),
    }


def _best_first(decoded: Decoded, length_penalty: float) -> Decoded:
    """Sort reports by their score; those that a beam search repeats, having found too few, are taken out."""
    tokens, sums = decoded.tokens, decoded.log_probs
    is_same = (tokens[:, :, None] == tokens[:, None]).all(-1)
    sums = sums.masked_fill(is_same.tril(-1).any(-1), -torch.inf)
    lengths = ((tokens > 0).sum(-1) + 1).clamp(max=tokens.shape[-1])
    order = (sums / lengths**length_penalty).sort(dim=1, descending=True, stable=True).indices
    sums = sums.gather(1, order)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return Decoded(tokens.masked_fill(sums[..., None] == -math.inf, 0), sums)
