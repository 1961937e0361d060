"""What the plain, the memory-driven and the cross-modal transformer share: an encoder of patches, a decoder of tokens."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.attention import BeamCache, KeysValues, for_steps
from hardneg_plugin.backbones.decoder import IncrementalDecoder, evaluating
from hardneg_plugin.backbones.decoding import Decoded, DecoderState, Decoding
from hardneg_plugin.backbones.layers import (
    DecoderLayer,
    EncoderLayer,
    Norm,
    attention_mask,
    causal_mask,
    sinusoids,
)
from hardneg_plugin.backbones.linear import DecodingLinear
from hardneg_plugin.backbones.packed import packed_weights

DecoderInput = tuple[Tensor, Sequence[Sequence[Norm]]]
"""Embedded tokens `(B, T, width)`, and the three norms of every decoder layer."""


@dataclass
class EncoderDecoderState(DecoderState):
    """Keys and values per layer: of the image once per study, of the tokens in a `BeamCache`."""

    image: list[KeysValues]
    patch_mask: Tensor | None
    cache: BeamCache
    shared: Any
    """From `EncoderDecoder._shared`."""

    def select(self, parents: Tensor) -> None:
        """Let each beam continue another one of its study: `parents` `(B, k)`."""
        self.cache.select(parents)

    def keep(self, studies: Tensor) -> None:
        """Go on with some studies: `studies` `(n,)` int64."""
        self.image = [for_steps((keys[studies], values[studies])) for keys, values in self.image]
        if self.patch_mask is not None:
            self.patch_mask = self.patch_mask[studies]
        self.cache.keep(studies)


class EncoderDecoder(IncrementalDecoder):
    """A pre-norm transformer from patches to tokens; subclasses define its inputs and norms.

    Args:
        vocab_size: Number of tokens V.
        patch_width: Width `D_v` of the patch features.
        width: Width of the transformer, a multiple of `heads`.
        heads: Attention heads.
        layers: Layers of the encoder, and as many of the decoder.
        feedforward_width: Hidden width of the feed-forward sublayers.
        dropout: Of attention weights, sublayer outputs, feed-forward hidden units and embedded tokens.
        patch_dropout: Of the projected patches.
    """

    norm: Callable[[int], nn.Module]
    """Makes a norm of a width: those of the encoder, and those after the last layers."""

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        width: int = 512,
        heads: int = 8,
        layers: int = 3,
        feedforward_width: int = 512,
        dropout: float = 0.1,
        patch_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.vocab_size, self.width, self.heads = vocab_size, width, heads
        self.project = nn.Sequential(nn.Linear(patch_width, width), nn.ReLU(), nn.Dropout(patch_dropout))
        self.encoder = nn.ModuleList(
            EncoderLayer(width, heads, feedforward_width, dropout, self.norm) for _ in range(layers)
        )
        self.encoder_norm = self.norm(width)
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.embedding_dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, feedforward_width, dropout) for _ in range(layers))
        self.decoder_norm = self.norm(width)
        self.output = DecodingLinear(width, vocab_size + 1)

    def _shared(self) -> Any:
        """What patches and tokens both read, computed once per call for all studies; None by default."""
        return None

    def _patch_input(self, patches: Tensor, shared: Any) -> Tensor:
        """From `(B, P, D_v)` to the encoder's input `(B, P, width)`; by default the projection alone."""
        x: Tensor = self.project(patches)
        return x

    @abstractmethod
    def _token_input(self, tokens: Tensor, shared: Any) -> DecoderInput:
        """From token rows `(B, T)` that begin with token 0."""

    @abstractmethod
    def _next_token_input(self, tokens: Tensor, state: EncoderDecoderState) -> DecoderInput:
        """From the next token of each beam `(B, k)`; beams take the place of positions."""

    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`; the states after the final norm."""
        patch_mask, shared = attention_mask(patch_mask), self._shared()
        return self._read(tokens, shared, self._image(patches, patch_mask, shared), patch_mask)

    def text_states(self, tokens: Tensor) -> Tensor:
        """See `ReportDecoder`: every attention to the image is left out."""
        return self._read(tokens, self._shared(), [None] * len(self.decoder), None)

    @property
    def word_embedding(self) -> nn.Embedding:
        """`(V + 1, width)`."""
        return self.embedding

    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """`(B, T - 1, width)`, neither scaled nor with positions."""
        embedded: Tensor = self.embedding(tokens[:, 1:])
        return embedded

    def classify(self, states: Tensor) -> Tensor:
        """See `ReportDecoder`."""
        return F.log_softmax(self.output(states), dim=-1, dtype=torch.float32)

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """See `Incremental`; on packed weights, unless a single row of float32 at a time would not repay the packing."""
        rows = len(patches) * (decoding.num_return if decoding.sample else decoding.beam_size)
        is_repaid = rows > 1 or decoding.precision is not None
        with packed_weights(self, decoding.precision) if is_repaid else nullcontext():
            return super().search(patches, decoding, patch_mask=patch_mask)

    def start(
        self, patches: Tensor, *, max_length: int, beams: int = 1, patch_mask: Tensor | None = None
    ) -> EncoderDecoderState:
        """See `Incremental`: the image is encoded once, and the beams of a study share its keys and values."""
        patch_mask, shared = attention_mask(patch_mask), self._shared()
        cache = BeamCache(len(self.decoder), len(patches), beams, max_length, patches.device)
        image = [for_steps(keys_values) for keys_values in self._image(patches, patch_mask, shared)]
        return EncoderDecoderState(image, patch_mask, cache, shared)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """See `Incremental`."""
        assert isinstance(state, EncoderDecoderState)
        cache = state.cache
        cache.advance()
        x, norms = self._next_token_input(tokens, state)
        mask = cache.mask
        for index, (layer, image) in enumerate(zip(self.decoder, state.image, strict=True)):
            x = layer(x, norms[index], mask, image, state.patch_mask, extend=partial(cache.extend, index))
        return self.classify(self.decoder_norm(x))

    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`."""
        weights: list[Tensor] = []
        hooks = [
            cast(DecoderLayer, layer).image_attention.register_forward_pre_hook(
                lambda attention, arguments: weights.append(
                    attention.weights(arguments[0], arguments[1][0], arguments[2])
                )
            )
            for layer in self.decoder
        ]
        try:
            with evaluating(self):
                self.states(patches, tokens, patch_mask=patch_mask)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(weights, dim=1)

    def log_probs_of_pairs(
        self, patches: Tensor, tokens: Tensor, image: Tensor, report: Tensor, *, patch_mask: Tensor | None = None
    ) -> Tensor:
        """See `ReportDecoder`; what depends on the image or the report alone is computed once for each."""
        with evaluating(self):
            mask, shared = attention_mask(patch_mask), self._shared()
            # layer by layer, as each is needed: they are large
            images = ((keys[image], values[image]) for keys, values in self._image(patches, mask, shared))
            inputs = tokens[:, :-1]
            x, norms = self._token_input(inputs, shared)
            norms_of_pairs = ([self._norm_of_rows(norm, report) for norm in of_layer] for of_layer in norms)
            image_mask = None if mask is None else mask[image]
            states = self._decode(x[report], norms_of_pairs, causal_mask(inputs)[report], images, image_mask)
            return self.classify(states)

    def _norm_of_rows(self, norm: Norm, rows: Tensor) -> Norm:
        """A norm for these rows of the tokens that it was made for; by default it is the same for all."""
        return norm

    def _read(
        self, tokens: Tensor, shared: Any, images: Sequence[KeysValues | None], patch_mask: Tensor | None
    ) -> Tensor:
        inputs = tokens[:, :-1]
        return self._decode(*self._token_input(inputs, shared), causal_mask(inputs), images, patch_mask)

    def _decode(
        self,
        x: Tensor,
        norms: Iterable[Sequence[Norm]],
        mask: Tensor,
        images: Iterable[KeysValues | None],
        patch_mask: Tensor | None,
    ) -> Tensor:
        for layer, layer_norms, image in zip(self.decoder, norms, images, strict=True):
            x = layer(x, layer_norms, mask, image, patch_mask)
        states: Tensor = self.decoder_norm(x)
        return states

    def _image(self, patches: Tensor, patch_mask: Tensor | None, shared: Any) -> list[KeysValues]:
        x = self._patch_input(patches, shared)
        for layer in self.encoder:
            x = layer(x, patch_mask)
        x = self.encoder_norm(x)
        return [cast(DecoderLayer, layer).image_attention.keys_values(x) for layer in self.decoder]

    def _embed(self, tokens: Tensor, cache: BeamCache | None = None) -> Tensor:
        """Scaled embeddings with positions, without dropout: `(B, T)` to `(B, T, width)`.

        With a cache the next token of each beam `(B, k)`, all at the current position.
        """
        first, end = (0, tokens.shape[1]) if cache is None else (cache.length - 1, cache.length)
        positions = torch.arange(first, end, device=tokens.device)
        embedded: Tensor = self.embedding(tokens) * math.sqrt(self.width)
        return embedded + sinusoids(positions, self.width).to(embedded.dtype)
