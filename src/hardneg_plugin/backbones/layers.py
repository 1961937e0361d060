"""The layers that all decoders here are made of: pre-norm sublayers around attention and feed-forward."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.attention import Attention, KeysValues
from hardneg_plugin.backbones.linear import Linear
from hardneg_plugin.errors import UserError

Norm = Callable[[Tensor], Tensor]
"""Normalises `(B, T, width)`."""


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each `x + dropout(sublayer(norm(x)))`.

    Args:
        width: Width of inputs and outputs, a multiple of `heads`.
        heads: Attention heads.
        feedforward_width: Hidden width of the feed-forward sublayer.
        dropout: Of attention weights, sublayer outputs and feed-forward hidden units.
        norm: Makes a norm of a width.
    """

    def __init__(
        self, width: int, heads: int, feedforward_width: int, dropout: float, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.feedforward = feedforward(width, feedforward_width, dropout)
        self.self_norm, self.feedforward_norm = norm(width), norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Transform `(B, P, width)`; `mask` as in `Attention`."""
        normed = self.self_norm(x)
        x = x + self.dropout(self.self_attention(normed, self.self_attention.keys_values(normed), mask))
        out: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the image and feed-forward, each `x + dropout(sublayer(norm(x)))`.

    The three norms come with each call: in R2Gen they depend on what was read so far. Arguments as in `EncoderLayer`.
    """

    def __init__(self, width: int, heads: int, feedforward_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.image_attention = Attention(width, heads, dropout)
        self.feedforward = feedforward(width, feedforward_width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        norms: Sequence[Norm],
        mask: Tensor,
        image: KeysValues | None,
        patch_mask: Tensor | None,
        *,
        extend: Callable[[KeysValues], KeysValues] | None = None,
    ) -> Tensor:
        """Transform `(B, T, width)` words, or `(B, k, width)` beams while decoding.

        Args:
            x: Embedded words.
            norms: Of the three sublayers.
            mask: Which words each may attend to, as in `Attention`.
            image: Keys and values of the image; None leaves the attention to it out.
            patch_mask: Which patches may be attended to, as in `Attention`.
            extend: From the keys and values of `x` to those of all words so far; None where `x` holds them all.
        """
        self_norm, image_norm, feedforward_norm = norms
        normed = self_norm(x)
        words = self.self_attention.keys_values(normed)
        if extend is not None:
            words = extend(words)
        x = x + self.dropout(self.self_attention(normed, words, mask))
        if image is not None:
            x = x + self.dropout(self.image_attention(image_norm(x), image, patch_mask))
        out: Tensor = x + self.dropout(self.feedforward(feedforward_norm(x)))
        return out


class PatchPositions(nn.Embedding):
    """Learned positions, one per patch index: without them no attention tells left from right."""

    def forward(self, patches: Tensor) -> Tensor:
        """Add them to `(B, P, width)`; a UserError if there are more patches than positions."""
        count, most = patches.shape[1], self.num_embeddings
        if count > most:
            raise UserError(f"Expected at most {most} patches per study (`max_patches`), but got {count}: raise it.")
        return patches + self.weight[:count]


class SampleNorm(nn.Module):
    """The norm of the released models: `gain * (x - mean) / (std + 1e-6) + shift` with the unbiased deviation.

    Unlike `nn.LayerNorm` it divides by n - 1 and adds to the deviation instead of the variance, which shows in rows that
    hardly vary.

    Args:
        width: Width of what is normalised, at least 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return torch.addcmul(self.shift, self.gain, standardised(x))


def standardised(x: Tensor) -> Tensor:
    """`(x - mean) / (std + 1e-6)` over the last dimension, the deviation unbiased; in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = x - x.mean(-1, keepdim=True)
    # torch.std_mean takes 30 times as long on a CPU.
    std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(x.shape[-1] - 1)
    out: Tensor = centred / (std + 1e-6)
    return out


def decoder_norms(layers: int, width: int, norm: Callable[[int], nn.Module]) -> nn.ModuleList:
    """Three norms for each of some decoder layers."""
    return nn.ModuleList(nn.ModuleList(norm(width) for _ in range(3)) for _ in range(layers))


def feedforward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout, linear."""
    return nn.Sequential(Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), Linear(hidden, width))


def xavier_matrices(*modules: nn.Module) -> None:
    """Xavier-uniform values for every matrix of some modules; vectors stay as they are."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


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
