"""A bidirectional encoder of reports for pre-training, without attention to images."""

import math

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.layers import EncoderLayer, attention_mask, sinusoids, xavier_matrices
from hardneg_plugin.errors import UserError


class TextEncoder(nn.Module):
    """A pre-norm transformer over the tokens of a report.

    Args:
        vocab_size: number of tokens V; token 0 begins, ends and pads.
        width: of the states, a multiple of `heads`.
        heads: attention heads.
        layers: number of layers, >= 1.
        feedforward_width: hidden width of the feed-forward sublayers, >= 1.
        dropout: of attention weights, sublayer outputs, feed-forward hidden units and embedded tokens.

    Raises:
        UserError: an argument is out of range.

    >>> TextEncoder(vocab_size=20, width=8, heads=2)(torch.tensor([[0, 5, 7, 0], [0, 3, 0, 0]])).shape
    torch.Size([2, 3, 8])
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
                "model.text: expected layers and feedforward_width >= 1 and a width that is a multiple of heads, but got "
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
        """States `(B, T - 1, width)` of `tokens[:, 1:]`, tokens `(B, T)` int64; meaningless past the end of a report."""
        inputs = tokens[:, 1:]
        is_end = inputs == 0
        is_kept = is_end.cumsum(1) - is_end.long() == 0  # up to the first end, inclusive
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.dropout(self.embedding(inputs) * math.sqrt(self.width) + sinusoids(positions, self.width))
        mask = attention_mask(is_kept)
        for layer in self.layers:
            x = layer(x, mask)
        states: Tensor = self.norm(x)
        return states
