"""Any causal language model of Hugging Face transformers that can cross-attend, as a report decoder."""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.decoder import ReportDecoder
from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.generation import decode_by_generate
from hardneg_plugin.backbones.huggingface_models import (
    INSTEAD,
    build,
    config_from_values,
    config_of,
    eager_twin,
    first_position,
    load,
    quietly,
    use_row_as_token_0,
)
from hardneg_plugin.backbones.layers import PatchPositions, attention_mask
from hardneg_plugin.errors import UserError, first_line

# transformers takes seconds to import: functions import what they need of it.


class HuggingFaceDecoder(ReportDecoder):
    """GPT-2, BERT, RoBERTa, BART, ...: a model of `AutoModelForCausalLM` that cross-attends to the projected patches.

    Token `i` is row `i - 1` of the model's vocabulary, as in `HuggingFaceTokenizer`, and token 0 (begin, end and padding) is the
    last row V. So pretrained rows keep their meaning, and the model's begin, end and padding tokens are tokens like any other. Row
    V starts as the mean of the pretrained rows. Search uses the model's `generate`, in which the next best beam takes the place of
    one that ends.

    Args:
        vocab_size: Number of tokens V. For pretrained weights the model's number of rows, or fewer where it pads them to a multiple
            of a power of two; the padding rows are dropped.
        patch_width: Width `D_v` of the patch features.
        name_or_path: A name on the hub, or a folder with a `config.json` and weights. Cross-attention that the weights lack starts
            random.
        config: Without `name_or_path`: `model_type` and the values of its config that differ from the defaults, for a decoder with
            random weights.
        pretrained: Start from the weights of `name_or_path`; False reads its config only.
        max_patches: Learn a position for each of this many patches; None adds no positions.

    Raises:
        UserError: If the model cannot be built or loaded, does not cross-attend, or has another vocabulary; if a study has more
            than `max_patches` patches, or a report more tokens than the model has positions.

    >>> config = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8}
    >>> decoder = HuggingFaceDecoder(vocab_size=20, patch_width=6, config=config)
    >>> decoder.log_probs(torch.rand(2, 4, 6), torch.tensor([[0, 5, 7, 0], [0, 3, 0, 0]])).shape
    torch.Size([2, 3, 21])
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
        use_row_as_token_0(self.model, vocab_size)
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
        """The full `config`, instead of a name or a folder."""
        return {"name_or_path": None, "config": self.model.config.to_dict()}

    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`; the last hidden states."""
        return self._read(tokens, **self._image(patches, patch_mask))

    def text_states(self, tokens: Tensor) -> Tensor:
        """See `ReportDecoder`: without cross-attention."""
        return self._read(tokens)

    @property
    def word_embedding(self) -> nn.Embedding:
        """The model's input embeddings; in some models narrower than the states."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """`(B, T - 1, D)` with D the width of the embeddings."""
        embedded: Tensor = self.word_embedding((tokens[:, 1:] - 1) % (self.vocab_size + 1))
        return embedded

    def classify(self, states: Tensor) -> Tensor:
        """See `ReportDecoder`."""
        # the head is what follows the base model: one layer in GPT-2, a block in BERT
        for name, part in self.model.named_children():
            if name != self.model.base_model_prefix:
                states = part(states)
        return F.log_softmax(states.roll(1, dims=-1), dim=-1, dtype=torch.float32)

    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`."""
        inputs = self._inputs(tokens) | self._image(patches, patch_mask)
        maps = eager_twin(self.model).base_model(**inputs, output_attentions=True).cross_attentions
        return torch.stack(maps, dim=1)

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """See `ReportDecoder`; by the model's `generate`."""
        from transformers import DynamicCache, EncoderDecoderCache

        self._check_length(decoding.max_length)
        begin = torch.full((len(patches), 1), self.vocab_size, device=patches.device)
        inputs = {
            "input_ids": begin,
            "attention_mask": torch.ones_like(begin),
            **self._positions(begin),
            **self._image(patches, patch_mask),
            # `generate` creates a cross-attention cache for encoder-decoder models only
            "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache()),
        }
        return decode_by_generate(self.model, decoding, inputs, end_row=self.vocab_size)

    def _read(self, tokens: Tensor, **image: Tensor | None) -> Tensor:
        states: Tensor = self.model.base_model(**self._inputs(tokens), **image).last_hidden_state
        return states

    def _inputs(self, tokens: Tensor) -> dict[str, Any]:
        inputs = tokens[:, :-1]
        self._check_length(inputs.shape[1])
        is_kept = inputs > 0
        is_kept[:, 0] = True  # begin; later zeros pad
        ids = (inputs - 1) % (self.vocab_size + 1)
        return {"input_ids": ids, "attention_mask": is_kept.long(), "use_cache": False, **self._positions(ids)}

    def _positions(self, ids: Tensor) -> dict[str, Tensor]:
        # given explicitly, as some models derive them from their padding token, and do so otherwise in `generate`
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

    def _check_length(self, tokens: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and tokens > most - self._first_position:
            raise UserError(
                f"Expected at most {most - self._first_position} tokens, the positions of {type(self.model).__name__}, but got "
                f"{tokens}: lower data.max_length and decoding.max_length, or take a model with more positions."
            )

    @torch.no_grad()
    def _check_parts(self) -> None:
        """Check that the model attends to the image, and that only a head follows its base model."""
        name = type(self.model).__name__
        count = 3 if self.patch_positions is None else min(3, self.patch_positions.num_embeddings)
        patches, tokens = torch.ones(1, count, self.project.in_features), torch.zeros(1, 2, dtype=torch.long)
        patch_mask = torch.ones(1, count, dtype=torch.bool)
        try:
            states, text_states = self.states(patches, tokens, patch_mask=patch_mask), self.text_states(tokens)
            found = self.classify(states)
            logits = self.model(**self._inputs(tokens), **self._image(patches, patch_mask)).logits
            self.search(patches, Decoding(beam_size=1, max_length=2), patch_mask=patch_mask)
        except Exception as error:  # some models offer cross-attention, but fail in it
            raise UserError(f"{name} cannot attend to an image: {first_line(error)}. {INSTEAD}") from error
        if torch.equal(states, text_states):
            raise UserError(f"Expected a decoder that attends to an image, but {name} ignores it. {INSTEAD}")
        expected = logits.roll(1, dims=-1).log_softmax(-1)
        if found.shape[-1] != self.vocab_size + 1 or not torch.allclose(found, expected, atol=1e-3):
            raise UserError(
                f"Expected a model whose head turns its last hidden states into logits of one vocabulary, but {name} is "
                f"built differently. {INSTEAD}"
            )
