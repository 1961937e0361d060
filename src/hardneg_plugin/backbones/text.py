"""An encoder of reports for pre-training: every word sees all others, and no image."""

import math

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.layers import EncoderLayer, attention_mask, sinusoids, xavier_matrices
from hardneg_plugin.errors import UserError


class TextEncoder(nn.Module):
    """A pre-norm transformer over words.

    Args:
        vocab_size: number of words V; word 0 begins, ends and pads.
        width: of the states, a multiple of `heads`.
        heads: of each attention.
        layers: at least 1.
        feedforward_width: hidden width of the feed-forward sublayers, at least 1.
        dropout: of attention weights, sublayer outputs, feed-forward hidden units and embedded words.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int = 256,
        heads: int = 8,
        layers: int = 2,
        feedforward_width: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(layers, width, heads, feedforward_width) < 1 or width % heads:
            raise UserError(
                "model.text: expected layers and feedforward_width from 1 and a width that is a multiple of heads, but got "
                f"layers={layers}, feedforward_width={feedforward_width}, width={width} and heads={heads}."
            )
        self.width = width
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, feedforward_width, dropout, nn.LayerNorm) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        xavier_matrices(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """States of `tokens[:, 1:]`: `(B, T)` int64 to `(B, T - 1, width)`; past the end of a report they mean nothing."""
        words = tokens[:, 1:]
        # the end is a word too: all up to the first 0 are there
        is_there = (words == 0).cumsum(1) - (words == 0).long() == 0
        positions = torch.arange(words.shape[1], device=words.device)
        x = self.dropout(self.embedding(words) * math.sqrt(self.width) + sinusoids(positions, self.width))
        mask = attention_mask(is_there)
        for layer in self.layers:
            x = layer(x, mask)
        states: Tensor = self.norm(x)
        return states
