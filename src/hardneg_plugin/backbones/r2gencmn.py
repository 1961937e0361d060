"""R2GenCMN: a transformer whose patches and tokens query one learned matrix, the cross-modal memory."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.attention import KeysValues, split_heads
from hardneg_plugin.backbones.encoder_decoder import DecoderInput, EncoderDecoder, EncoderDecoderState
from hardneg_plugin.backbones.layers import Norm, SampleNorm, decoder_norms, sinusoids, xavier_matrices
from hardneg_plugin.backbones.linear import DecodingLinear
from hardneg_plugin.errors import UserError


class R2GenCMN(EncoderDecoder):
    """The cross-modal memory network (Chen et al., Cross-modal Memory Networks for Radiology Report Generation, ACL 2021).

    Computes the same numbers as the released model; `official.py` maps its weights.

    Args:
        vocab_size: Number of tokens V.
        patch_width: Width `D_v` of the patch features.
        memory_size: Rows of the memory matrix.
        topk: Rows that answer a query, at most `memory_size`.
        sizes: Of `EncoderDecoder`: width, heads, layers, feedforward_width, dropout, patch_dropout. Width, heads and dropout hold
            for the memory too, and dropout for the patches with their positions.

    Raises:
        UserError: If `heads` does not divide `width`, or `topk` is not in [1, `memory_size`].

    >>> decoder = R2GenCMN(vocab_size=20, patch_width=6, width=8, heads=2, layers=1, memory_size=16, topk=4)
    >>> decoder.generate(torch.rand(2, 4, 6), max_length=5).shape
    torch.Size([2, 5])
    """

    norm = SampleNorm

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        memory_size: int = 2048,
        topk: int = 32,
        **sizes: Any,
    ) -> None:
        super().__init__(vocab_size, patch_width, **sizes)
        self.norms = decoder_norms(len(self.decoder), self.width, SampleNorm)
        self.memory = CrossModalMemory(self.width, self.heads, memory_size, topk, self.embedding_dropout.p)
        xavier_matrices(self.encoder, self.decoder, self.embedding)

    def _shared(self) -> KeysValues:
        return self.memory.keys_values()

    def _patch_input(self, patches: Tensor, shared: Any) -> Tensor:
        x = self.project(patches)
        x = x + self.memory(x, shared)
        positions = torch.arange(patches.shape[1], device=patches.device)
        out: Tensor = self.embedding_dropout(x + sinusoids(positions, self.width).to(x.dtype))
        return out

    def _token_input(self, tokens: Tensor, shared: Any) -> DecoderInput:
        return self._query_memory(self.embedding_dropout(self._embed(tokens)), shared)

    def _next_token_input(self, tokens: Tensor, state: EncoderDecoderState) -> DecoderInput:
        # the memory's response depends on token and position alone, and beams share most of their tokens
        distinct, index = tokens.unique(return_inverse=True)
        x, norms = self._query_memory(self._embed(distinct[None], state.cache), state.shared)
        return x[0][index], norms

    def _query_memory(self, x: Tensor, shared: KeysValues) -> DecoderInput:
        # the type in quotes: evaluated, it would break the graph of torch.compile
        return x + self.memory(x, shared), cast("Sequence[Sequence[Norm]]", self.norms)


class CrossModalMemory(nn.Module):
    """Attention to the `topk` best rows of a learned matrix.

    Args:
        width: Width of queries, rows and responses, a multiple of `heads`.
        heads: Attention heads; each has its own best rows.
        size: Rows M of the matrix.
        topk: Best rows that answer a query.
        dropout: Of the weights of those rows.

    Raises:
        UserError: If `topk` is not in [1, `size`].
    """

    def __init__(self, width: int, heads: int, size: int, topk: int, dropout: float) -> None:
        super().__init__()
        if not 1 <= topk <= size:
            raise UserError(f"Expected `topk` in [1, {size}] (the rows of the memory), but got {topk}.")
        self.heads, self.topk, self.dropout = heads, topk, dropout
        self.matrix = nn.Parameter(torch.randn(size, width) / width)
        self.query, self.key, self.value, self.output = (DecodingLinear(width, width) for _ in range(4))
        xavier_matrices(self.query, self.key, self.value, self.output)

    def keys_values(self) -> KeysValues:
        """Keys and values of the rows, each `(heads, M, width / heads)`; the same for every study."""
        keys, values = split_heads(self.key(self.matrix), self.heads), split_heads(self.value(self.matrix), self.heads)
        return keys, values.contiguous()  # one table, of which no query makes another copy

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """The response to each query, `(B, L, width)`.

        Args:
            x: `(B, L, width)` queries.
            keys_values: From the method of that name.
        """
        keys, values = keys_values
        heads, size, chunk = values.shape
        queries = split_heads(self.query(x).flatten(0, 1), heads) * chunk**-0.5
        best, rows = (queries @ keys.mT).topk(self.topk, dim=-1, sorted=False)
        weights = F.dropout(best.softmax(-1), self.dropout, self.training)
        # embedding_bag sums the rows without a copy of them; the heads lie one after the other in one table. At least float32, as
        # the gradients of a row's many uses add up.
        rows = rows + size * torch.arange(heads, device=rows.device)[:, None, None]
        table = values.flatten(0, 1).to(torch.promote_types(values.dtype, torch.float32))
        response = F.embedding_bag(
            rows.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1).to(table.dtype), mode="sum"
        )
        merged = response.unflatten(0, (heads, -1)).transpose(0, 1).flatten(1)
        out: Tensor = self.output(merged).view(x.shape)
        return out
