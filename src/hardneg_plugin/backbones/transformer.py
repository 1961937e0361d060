"""A plain pre-norm transformer from image patches to the report: the baseline of the memory-driven decoders."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.attention import Attention, BeamCache, KeysValues
from hardneg_plugin.backbones.decoder import DecoderState, ReportDecoder
from hardneg_plugin.errors import UserError


class TransformerDecoder(ReportDecoder):
    """Encoder over patches, decoder over words (the base model of Chen et al., EMNLP 2020, with `nn.LayerNorm`).

    Args:
        vocab_size: Number of words V.
        patch_width: Width `D_v` of the patch features.
        width: Width of the transformer, a multiple of `heads`.
        heads: Attention heads.
        layers: Layers of the encoder, and as many of the decoder.
        feedforward_width: Hidden width of the feed-forward sublayers.
        dropout: Of attention weights, sublayer outputs, feed-forward hidden units and embedded words.
        patch_dropout: Of the projected patches.
        max_patches: Learn one position per patch index, for so many patches; None adds no positions.

    Raises:
        UserError: If `heads` does not divide `width`, or an image has more than `max_patches` patches.
    """

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
        max_patches: int | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.width = width
        self.project = nn.Sequential(nn.Linear(patch_width, width), nn.ReLU(), nn.Dropout(patch_dropout))
        self.patch_positions = None if max_patches is None else nn.Embedding(max_patches, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, feedforward_width, dropout) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.embedding_dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, feedforward_width, dropout) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size + 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Hidden states `(B, T - 1, width)` after the final norm, teacher-forced."""
        patch_mask = attention_mask(patch_mask)
        return self._read(tokens, self._image_keys_values(patches, patch_mask), patch_mask)

    def text_states(self, tokens: Tensor) -> Tensor:
        """The same with every attention to the image left out."""
        return self._read(tokens, [None] * len(self.decoder), None)

    def classify(self, states: Tensor) -> Tensor:
        """Log-probabilities `(..., V + 1)` in float32."""
        return F.log_softmax(self.output(states), dim=-1, dtype=torch.float32)

    def start(
        self, patches: Tensor, *, max_length: int, beams: int = 1, patch_mask: Tensor | None = None
    ) -> "TransformerState":
        """Encode the image once; its keys and values are shared by the beams of a study."""
        patch_mask = attention_mask(patch_mask)
        cache = BeamCache(len(self.decoder), len(patches), beams, max_length, patches.device)
        return TransformerState(self._image_keys_values(patches, patch_mask), patch_mask, cache)

    def step(self, words: Tensor, state: DecoderState) -> Tensor:
        """Log-probabilities `(B, k, V + 1)` of the next word of each beam."""
        assert isinstance(state, TransformerState)
        cache = state.cache
        cache.advance()
        # The beams of a study stand where the positions of a report stand in training: (B, k, width).
        x = self._embed(words, torch.full_like(words[0], cache.length - 1))
        mask = cache.mask
        for index, (layer, image) in enumerate(zip(self.decoder, state.image, strict=True)):
            x = layer(x, mask, image, state.patch_mask, extend=partial(cache.extend, index))
        return self.classify(self.decoder_norm(x))

    def _read(self, tokens: Tensor, images: Sequence[KeysValues | None], patch_mask: Tensor | None) -> Tensor:
        words = tokens[:, :-1]
        x = self._embed(words, torch.arange(words.shape[1], device=words.device))
        mask = word_mask(words)
        for layer, image in zip(self.decoder, images, strict=True):
            x = layer(x, mask, image, patch_mask)
        states: Tensor = self.decoder_norm(x)
        return states

    def _embed(self, words: Tensor, positions: Tensor) -> Tensor:
        embedded = self.embedding(words) * math.sqrt(self.width)
        out: Tensor = self.embedding_dropout(embedded + sinusoids(positions, self.width).to(embedded.dtype))
        return out

    def _image_keys_values(self, patches: Tensor, patch_mask: Tensor | None) -> list[KeysValues]:
        x = self.project(patches)
        if self.patch_positions is not None:
            count, most = patches.shape[1], self.patch_positions.num_embeddings
            if count > most:
                raise UserError(
                    f"Expected at most {most} patches per study (`max_patches`), but got {count}: raise it."
                )
            x = x + self.patch_positions.weight[:count]
        for layer in self.encoder:
            x = layer(x, patch_mask)
        x = self.encoder_norm(x)
        return [cast(DecoderLayer, layer).image_attention.keys_values(x) for layer in self.decoder]


class TransformerState(DecoderState):
    """The image's keys and values per layer, once per study, and the words' in a `BeamCache`."""

    def __init__(self, image: list[KeysValues], patch_mask: Tensor | None, cache: BeamCache) -> None:
        self.image = image
        self.patch_mask = patch_mask
        self.cache = cache

    def select(self, parents: Tensor) -> None:
        """Let each beam go on from another of its study: `parents` `(B, k)`."""
        self.cache.select(parents)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each `x + dropout(sublayer(norm(x)))`."""

    def __init__(self, width: int, heads: int, feedforward_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.feedforward = feedforward(width, feedforward_width, dropout)
        self.self_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Transform `(B, P, width)`; `mask` as in `Attention`."""
        normed = self.self_norm(x)
        x = x + self.dropout(self.self_attention(normed, self.self_attention.keys_values(normed), mask))
        out: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the image and feed-forward, each `x + dropout(sublayer(norm(x)))`."""

    def __init__(self, width: int, heads: int, feedforward_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.image_attention = Attention(width, heads, dropout)
        self.feedforward = feedforward(width, feedforward_width, dropout)
        self.self_norm, self.image_norm, self.feedforward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        image: KeysValues | None,
        patch_mask: Tensor | None,
        *,
        extend: Callable[[KeysValues], KeysValues] | None = None,
    ) -> Tensor:
        """Transform `(B, T, width)` words, or `(B, k, width)` beams while decoding.

        Args:
            x: Embedded words.
            mask: Which words each may attend to, as in `Attention`.
            image: Keys and values of the image; None leaves the attention to it out.
            patch_mask: Which patches may be attended to, as in `Attention`.
            extend: From the keys and values of `x` to those of all words so far; None where `x` holds them all.
        """
        normed = self.self_norm(x)
        words = self.self_attention.keys_values(normed)
        if extend is not None:
            words = extend(words)
        x = x + self.dropout(self.self_attention(normed, words, mask))
        if image is not None:
            x = x + self.dropout(self.image_attention(self.image_norm(x), image, patch_mask))
        out: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return out


def feedforward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout, linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sine in even columns, cosine in odd ones, base 10000: `(T,)` positions from 0 to `(T, width)` float32.

    >>> sinusoids(torch.tensor([0, 1]), 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    even = torch.arange(0, width, 2, device=positions.device)
    angles = positions[:, None] * torch.exp(even * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def word_mask(words: Tensor) -> Tensor:
    """Which words each may attend to: none that follow, none that pad, the first always; `(B, T)` to `(B, 1, T, T)`."""
    is_kept = words > 0
    is_kept[:, 0] = True
    causal = torch.ones(words.shape[1], words.shape[1], dtype=torch.bool, device=words.device).tril()
    return is_kept[:, None, None] & causal


def attention_mask(patch_mask: Tensor | None) -> Tensor | None:
    """Which patches may be attended to: `(B, P)` to `(B, 1, 1, P)`; all where there is none, as a softmax needs one."""
    if patch_mask is None:
        return None
    return (patch_mask | ~patch_mask.any(1, keepdim=True))[:, None, None]
