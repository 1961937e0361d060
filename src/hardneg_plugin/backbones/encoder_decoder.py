"""What the plain, the memory-driven and the cross-modal transformer share: an encoder of patches, a decoder of words."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.attention import BeamCache, KeysValues, for_steps
from hardneg_plugin.backbones.decoder import IncrementalDecoder, evaluating
from hardneg_plugin.backbones.decoding import DecoderState
from hardneg_plugin.backbones.layers import (
    DecoderLayer,
    EncoderLayer,
    Norm,
    attention_mask,
    sinusoids,
    word_mask,
)
from hardneg_plugin.backbones.linear import Linear

DecoderInput = tuple[Tensor, Sequence[Sequence[Norm]]]
"""Embedded words `(B, T, width)`, and the three norms of every decoder layer."""


@dataclass
class EncoderDecoderState(DecoderState):
    """The image's keys and values per layer, once per study, and the words' in a `BeamCache`."""

    image: list[KeysValues]
    patch_mask: Tensor | None
    cache: BeamCache
    shared: Any
    """What `EncoderDecoder._shared` gave."""

    def select(self, parents: Tensor) -> None:
        """Let each beam go on from another of its study: `parents` `(B, k)`."""
        self.cache.select(parents)


class EncoderDecoder(IncrementalDecoder):
    """A pre-norm transformer from patches to words; subclasses say how patches and words enter it.

    Args:
        vocab_size: Number of words V.
        patch_width: Width `D_v` of the patch features.
        width: Width of the transformer, a multiple of `heads`.
        heads: Attention heads.
        layers: Layers of the encoder, and as many of the decoder.
        feedforward_width: Hidden width of the feed-forward sublayers.
        dropout: Of attention weights, sublayer outputs, feed-forward hidden units and embedded words.
        patch_dropout: Of the projected patches.
        norm: Makes a norm of a width: those of the encoder, and those after the last layers.
    """

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        width: int,
        heads: int,
        layers: int,
        feedforward_width: int,
        dropout: float,
        patch_dropout: float,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.width = width
        self.project = nn.Sequential(nn.Linear(patch_width, width), nn.ReLU(), nn.Dropout(patch_dropout))
        self.encoder = nn.ModuleList(
            EncoderLayer(width, heads, feedforward_width, dropout, norm) for _ in range(layers)
        )
        self.encoder_norm = norm(width)
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.embedding_dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, feedforward_width, dropout) for _ in range(layers))
        self.decoder_norm = norm(width)
        self.output = Linear(width, vocab_size + 1)

    def _shared(self) -> Any:
        """What patches and words both consult: computed once per call, however many studies there are."""
        return None

    @abstractmethod
    def _patch_input(self, patches: Tensor, shared: Any) -> Tensor:
        """From `(B, P, D_v)` to the encoder's input `(B, P, width)`."""

    @abstractmethod
    def _word_input(self, words: Tensor, shared: Any) -> DecoderInput:
        """From whole rows of words `(B, T)`, the begin word first."""

    @abstractmethod
    def _next_word_input(self, words: Tensor, state: EncoderDecoderState) -> DecoderInput:
        """From the next word of each beam `(B, k)`; beams stand where positions stand elsewhere."""

    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Hidden states `(B, T - 1, width)` after the final norm, teacher-forced."""
        patch_mask, shared = attention_mask(patch_mask), self._shared()
        return self._read(tokens, shared, self._image(patches, patch_mask, shared), patch_mask)

    def text_states(self, tokens: Tensor) -> Tensor:
        """The same with every attention to the image left out."""
        return self._read(tokens, self._shared(), [None] * len(self.decoder), None)

    @property
    def word_embedding(self) -> nn.Embedding:
        """Row 0 begins and ends."""
        return self.embedding

    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """`(B, T - 1, width)`, without scale and positions."""
        embedded: Tensor = self.embedding(tokens[:, 1:])
        return embedded

    def classify(self, states: Tensor) -> Tensor:
        """Log-probabilities `(..., V + 1)` in float32."""
        return F.log_softmax(self.output(states), dim=-1, dtype=torch.float32)

    def start(
        self, patches: Tensor, *, max_length: int, beams: int = 1, patch_mask: Tensor | None = None
    ) -> EncoderDecoderState:
        """Encode the image once; its keys and values are shared by the beams of a study."""
        patch_mask, shared = attention_mask(patch_mask), self._shared()
        cache = BeamCache(len(self.decoder), len(patches), beams, max_length, patches.device)
        image = [for_steps(keys_values) for keys_values in self._image(patches, patch_mask, shared)]
        return EncoderDecoderState(image, patch_mask, cache, shared)

    def step(self, words: Tensor, state: DecoderState) -> Tensor:
        """Log-probabilities `(B, k, V + 1)` of the next word of each beam."""
        assert isinstance(state, EncoderDecoderState)
        cache = state.cache
        cache.advance()
        x, norms = self._next_word_input(words, state)
        mask = cache.mask
        for index, (layer, image) in enumerate(zip(self.decoder, state.image, strict=True)):
            x = layer(x, norms[index], mask, image, state.patch_mask, extend=partial(cache.extend, index))
        return self.classify(self.decoder_norm(x))

    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """How much each word attended to each patch: `(B, layers, heads, T - 1, P)`, teacher-forced, without dropout."""
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

    def _read(
        self, tokens: Tensor, shared: Any, images: Sequence[KeysValues | None], patch_mask: Tensor | None
    ) -> Tensor:
        words = tokens[:, :-1]
        x, norms = self._word_input(words, shared)
        mask = word_mask(words)
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

    def _embed(self, words: Tensor) -> Tensor:
        """Scaled embeddings and positions, without dropout: `(B, T)` to `(B, T, width)`."""
        return self._at(words, torch.arange(words.shape[1], device=words.device))

    def _embed_next(self, words: Tensor, state: EncoderDecoderState) -> Tensor:
        """The same for beams `(B, k)`, which all stand at the position that the cache is at."""
        length = state.cache.length
        return self._at(words, torch.arange(length - 1, length, device=words.device))

    def _at(self, words: Tensor, positions: Tensor) -> Tensor:
        """`(B, T)` words at `(T,)` positions, or all of them at one `(1,)`."""
        embedded: Tensor = self.embedding(words) * math.sqrt(self.width)
        return embedded + sinusoids(positions, self.width).to(embedded.dtype)
