"""The layers of the decoders: pre-norm sublayers around attention and feed-forward."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.attention import Attention, KeysValues
from hardneg_plugin.backbones.linear import DecodingLinear
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
        """Transform `(B, L, width)`.

        Args:
            x: `(B, L, width)`.
            mask: As in `Attention`.
        """
        normed = self.self_norm(x)
        x = x + self.dropout(self.self_attention(normed, self.self_attention.keys_values(normed), mask))
        out: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the image and feed-forward, each `x + dropout(sublayer(norm(x)))`.

    The three norms come with each call, as in R2Gen they depend on the report so far. Arguments as in `EncoderLayer`.
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
        """Transform `(B, T, width)`, or the next token of each beam `(B, k, width)`.

        Args:
            x: Embedded tokens.
            norms: Of the three sublayers.
            mask: Which tokens each may attend to, as in `Attention`.
            image: Keys and values of the image; None: no attention to it.
            patch_mask: Which patches may be attended to, as in `Attention`.
            extend: From the keys and values of `x` to those of all tokens so far; None: `x` holds all of them.
        """
        self_norm, image_norm, feedforward_norm = norms
        normed = self_norm(x)
        keys_values = self.self_attention.keys_values(normed)
        if extend is not None:
            keys_values = extend(keys_values)
        x = x + self.dropout(self.self_attention(normed, keys_values, mask))
        if image is not None:
            x = x + self.dropout(self.image_attention(image_norm(x), image, patch_mask))
        out: Tensor = x + self.dropout(self.feedforward(feedforward_norm(x)))
        return out


class PatchPositions(nn.Embedding):
    """Learned positions, one per patch index: without them attention cannot tell left from right."""

    def forward(self, patches: Tensor) -> Tensor:
        """Add them to patches `(B, P, width)`.

        Raises:
            UserError: If there are more patches than positions.
        """
        count, most = patches.shape[1], self.num_embeddings
        if count > most:
            raise UserError(f"Expected at most {most} patches per study (`max_patches`), but got {count}: raise it.")
        return patches + self.weight[:count]


class SampleNorm(nn.Module):
    """The norm of the released models: `gain * (x - mean) / (std + 1e-6) + shift` with the unbiased deviation.

    `nn.LayerNorm` divides by n and adds the epsilon to the variance instead.

    Args:
        width: Of the input, at least 2.
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
    # torch.std_mean takes 30 times as long on a CPU
    std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(x.shape[-1] - 1)
    out: Tensor = centred / (std + 1e-6)
    return out


def decoder_norms(layers: int, width: int, norm: Callable[[int], nn.Module]) -> nn.ModuleList:
    """Three norms for each decoder layer.

    Args:
        layers: L, a positive integer.
        width: what each norm takes.
        norm: makes a norm of a width.
    """
    return nn.ModuleList(nn.ModuleList(norm(width) for _ in range(3)) for _ in range(layers))


def feedforward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout, linear: `(..., width)` to `(..., width)`.

    Args:
        width: of input and output.
        hidden: width between the two linear layers.
        dropout: share of hidden units, in [0, 1).
    """
    return nn.Sequential(DecodingLinear(width, hidden), nn.ReLU(), nn.Dropout(dropout), DecodingLinear(hidden, width))


def xavier_matrices(*modules: nn.Module) -> None:
    """Initialise every matrix of the modules Xavier-uniformly; vectors stay as they are."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Fixed positions, sine in even columns and cosine in odd ones, base 10000: `(T, width)` float32.

    Args:
        positions: `(T,)`, >= 0.
        width: Number of columns.

    >>> sinusoids(torch.tensor([0, 1]), 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    even = torch.arange(0, width, 2, device=positions.device)
    angles = positions[:, None] * torch.exp(even * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def causal_mask(tokens: Tensor) -> Tensor:
    """Which tokens each may attend to: the first, itself and earlier ones without padding; `(B, T)` to `(B, 1, T, T)` bool."""
    is_kept = tokens > 0
    is_kept[:, 0] = True
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()
    return is_kept[:, None, None] & causal


def attention_mask(patch_mask: Tensor | None) -> Tensor | None:
    """Which patches may be attended to: `(B, P)` to `(B, 1, 1, P)`; all for a study without any, as a softmax needs one."""
    if patch_mask is None:
        return None
    return (patch_mask | ~patch_mask.any(1, keepdim=True))[:, None, None]
