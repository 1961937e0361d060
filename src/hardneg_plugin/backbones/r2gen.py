"""R2Gen: a transformer with a relational memory of the report so far, which conditions every norm of its decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.attention import Attention, KeysValues
from hardneg_plugin.backbones.encoder_decoder import DecoderInput, EncoderDecoder, EncoderDecoderState
from hardneg_plugin.backbones.layers import Norm, SampleNorm, standardised, xavier_matrices
from hardneg_plugin.backbones.linear import DecodingLinear
from hardneg_plugin.backbones.packed import Product


@dataclass
class R2GenState(EncoderDecoderState):
    """Adds the relational memory of each beam, `(B, k, slots, width)`."""

    memory: Tensor

    def select(self, parents: Tensor) -> None:
        """Let each beam continue another one of its study: `parents` `(B, k)`."""
        super().select(parents)
        self.memory = self.memory.gather(1, parents[..., None, None].expand_as(self.memory))

    def keep(self, studies: Tensor) -> None:
        """Go on with some studies: `studies` `(n,)` int64."""
        super().keep(studies)
        self.memory = self.memory[studies]


class R2Gen(EncoderDecoder):
    """The memory-driven transformer (Chen et al., Generating Radiology Reports via Memory-driven Transformer, EMNLP 2020).

    Computes the same numbers as the released model; `official.py` maps its weights.

    Args:
        vocab_size: Number of tokens V.
        patch_width: Width `D_v` of the patch features.
        memory_slots: Rows of the relational memory.
        memory_heads: Attention heads of the relational memory.
        sizes: Of `EncoderDecoder`: width, heads, layers, feedforward_width, dropout, patch_dropout.

    Raises:
        UserError: If `heads` or `memory_heads` does not divide `width`.

    >>> decoder = R2Gen(vocab_size=20, patch_width=6, width=8, heads=2, layers=1, memory_heads=2)
    >>> decoder.generate(torch.rand(2, 4, 6), max_length=5).shape
    torch.Size([2, 5])
    """

    norm = SampleNorm

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        memory_slots: int = 3,
        memory_heads: int = 8,
        **sizes: Any,
    ) -> None:
        super().__init__(vocab_size, patch_width, **sizes)
        self.memory = RelationalMemory(self.width, memory_heads, memory_slots, self.embedding_dropout.p)
        self.norms = ConditionalNorms(3 * len(self.decoder), self.width, memory_slots * self.width)
        xavier_matrices(self.encoder, self.decoder, self.embedding, self.memory)

    def start(
        self, patches: Tensor, *, max_length: int, beams: int = 1, patch_mask: Tensor | None = None
    ) -> R2GenState:
        """As in `EncoderDecoder`, with an initial memory for each beam."""
        state = super().start(patches, max_length=max_length, beams=beams, patch_mask=patch_mask)
        memory = self.memory.initial(len(patches) * beams).unflatten(0, (len(patches), beams))
        return R2GenState(**vars(state), memory=memory)

    def _token_input(self, tokens: Tensor, shared: Any) -> DecoderInput:
        embedded = self._embed(tokens)
        # dropout twice, as released: memory and decoder see different units
        memory = self.memory(self.embedding_dropout(embedded))
        return self.embedding_dropout(embedded), self._by_layer(self.norms(memory))

    def _next_token_input(self, tokens: Tensor, state: EncoderDecoderState) -> DecoderInput:
        assert isinstance(state, R2GenState)
        embedded = self._embed(tokens, state.cache)
        state.memory = self.memory.read(state.memory.flatten(0, 1), embedded.flatten(0, 1)).view_as(state.memory)
        return embedded, self._by_layer(self.norms(state.memory.flatten(2)))

    def _norm_of_rows(self, norm: Norm, rows: Tensor) -> Norm:
        assert isinstance(norm, ConditionalNorm)
        return ConditionalNorm(norm.gain[rows], norm.shift[rows])

    @staticmethod
    def _by_layer(norms: Sequence[Norm]) -> list[Sequence[Norm]]:
        return [norms[index : index + 3] for index in range(0, len(norms), 3)]


class RelationalMemory(nn.Module):
    """A few slots that attend to themselves and to each new token, behind an input and a forget gate.

    Args:
        width: Width of embeddings and slots.
        heads: Attention heads.
        slots: Number of slots S.
        dropout: Of attention weights.
    """

    def __init__(self, width: int, heads: int, slots: int, dropout: float) -> None:
        super().__init__()
        self.slots, self.width = slots, width
        self.attention = Attention(width, heads, dropout)
        self.mlp = nn.Sequential(DecodingLinear(width, width), nn.ReLU(), DecodingLinear(width, width), nn.ReLU())
        self.word_gates = DecodingLinear(width, 2 * width)
        self.memory_gates = DecodingLinear(width, 2 * width)

    def initial(self, rows: int) -> Tensor:
        """`(rows, S, width)`: rows of an identity matrix."""
        identity = torch.eye(self.slots, self.width, device=self.word_gates.weight.device)
        return identity.expand(rows, -1, -1)

    # torch.compile would unroll the loop over tokens, and compile for minutes
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, embedded: Tensor) -> Tensor:
        """The memory after each token: embeddings `(B, T, width)` to `(B, T, S * width)`."""
        memory = self.initial(len(embedded))
        # what depends on the tokens alone is computed for all positions at once
        keys, values = (projected.split(1, dim=2) for projected in self.attention.keys_values(embedded))
        gates = self.word_gates(embedded).split(1, dim=1)
        after = []
        for key, value, gate in zip(keys, values, gates, strict=True):
            memory = self._advance(memory, (key, value), gate)
            after.append(memory)
        return torch.stack(after, dim=1).flatten(2)

    def read(self, memory: Tensor, embedded: Tensor) -> Tensor:
        """The memory after one more token.

        Args:
            memory: `(N, S, width)`.
            embedded: `(N, width)`, the embedding of each token.
        """
        row = embedded[:, None]
        return self._advance(memory, self.attention.keys_values(row), self.word_gates(row))

    def _advance(self, memory: Tensor, token: KeysValues, token_gates: Tensor) -> Tensor:
        keys_values = self.attention.keys_values(memory)
        keys, values = (torch.cat(pair, dim=2) for pair in zip(keys_values, token, strict=True))
        proposed = memory + self.attention(memory, (keys, values))
        proposed = proposed + self.mlp(proposed)
        gates = torch.sigmoid(token_gates + self.memory_gates(torch.tanh(memory)))
        take, keep = gates.chunk(2, dim=-1)
        return take * torch.tanh(proposed) + keep * memory


@dataclass(frozen=True)
class ConditionalNorm:
    """A norm of `(B, T, width)` under a memory."""

    gain: Tensor
    """`(B, T, width)`."""
    shift: Tensor
    """`(B, T, width)`."""

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise `(B, T, width)`."""
        return torch.addcmul(self.shift, self.gain, standardised(x))


class ConditionalNorms(nn.Module):
    """Memory-driven conditional layer normalisation for all sublayers of a decoder at once.

    `(gain + mlp_gain(memory)) * standardised(x) + shift + mlp_shift(memory)`, each mlp `Linear, ReLU, Linear`.

    Args:
        count: Number of norms N.
        width: Width of what is normalised.
        memory_width: Width of the memory that conditions.
    """

    _second: Sequence[Product] | None = None
    """The second layers on packed weights."""

    def __init__(self, count: int, width: int, memory_width: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        # gain and shift of each norm in turn, as one vector: vectors are exempt from weight decay
        self.affine = nn.Parameter(torch.cat([torch.ones(width), torch.zeros(width)]).repeat(count))
        self.first = DecodingLinear(memory_width, 2 * count * width)
        self.second_weight = nn.Parameter(torch.empty(2 * count, width, width))  # out, in
        self.second_bias = nn.Parameter(torch.full((2 * count * width,), 0.1))
        nn.init.constant_(self.first.bias, 0.1)
        # initialise each of the fused matrices by itself
        for weight in (*self.first.weight.detach().split(width), *self.second_weight.detach()):
            nn.init.xavier_uniform_(weight)

    def pack(self, make: Callable[[Tensor, Tensor], Product]) -> None:
        """See `Packable`; `first` packs itself."""
        biases = (self.affine + self.second_bias).split(self.width)
        self._second = [make(weight, bias) for weight, bias in zip(self.second_weight, biases, strict=True)]

    def unpack(self) -> None:
        """See `Packable`."""
        self._second = None

    def forward(self, memory: Tensor) -> list[ConditionalNorm]:
        """The N norms under a memory `(B, T, memory_width)`, each of `(B, T, width)`."""
        bias = (self.affine + self.second_bias).view(-1, self.width)
        rows = memory.shape[:-1]
        gains_shifts: Sequence[Tensor]
        if self._second is not None:
            hidden = self.first(memory).relu_().split(self.width, dim=-1)
            gains_shifts = [second(part) for second, part in zip(self._second, hidden, strict=True)]
        elif torch.is_grad_enabled():
            hidden = self.first(memory).relu_().view(-1, 2 * self.count, self.width).transpose(0, 1)
            gains_shifts = torch.baddbmm(bias[:, None], hidden, self.second_weight.mT).unflatten(1, rows)
        else:
            hidden = self.first.transposed(memory).relu_().view(2 * self.count, self.width, -1)
            out = torch.baddbmm(bias[:, :, None], self.second_weight, hidden).mT.contiguous()
            gains_shifts = out.unflatten(1, rows)
        return [ConditionalNorm(gain, shift) for gain, shift in zip(gains_shifts[::2], gains_shifts[1::2], strict=True)]
