"""A plain pre-norm transformer from patches to the report: the baseline of the memory-driven decoders."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from hardneg_plugin.backbones.encoder_decoder import DecoderInput, EncoderDecoder, EncoderDecoderState
from hardneg_plugin.backbones.layers import Norm, PatchPositions, decoder_norms, xavier_matrices


class TransformerDecoder(EncoderDecoder):
    """Encoder over patches, decoder over tokens (the base model of Chen et al., EMNLP 2020, with `nn.LayerNorm`).

    Args:
        vocab_size: Number of tokens V.
        patch_width: Width `D_v` of the patch features.
        max_patches: Learn a position for each of this many patches; None adds no positions.
        sizes: Of `EncoderDecoder`: width, heads, layers, feedforward_width, dropout, patch_dropout.

    Raises:
        UserError: If `heads` does not divide `width`, or a study has more than `max_patches` patches.

    >>> import torch
    >>> decoder = TransformerDecoder(vocab_size=20, patch_width=6, width=8, heads=2, layers=1)
    >>> decoder.log_probs(torch.rand(2, 4, 6), torch.tensor([[0, 5, 7, 0], [0, 3, 0, 0]])).shape
    torch.Size([2, 3, 21])
    """

    norm = nn.LayerNorm

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        max_patches: int | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__(vocab_size, patch_width, **sizes)
        self.patch_positions = None if max_patches is None else PatchPositions(max_patches, self.width)
        self.norms = decoder_norms(len(self.decoder), self.width, nn.LayerNorm)
        xavier_matrices(self)

    def _patch_input(self, patches: Tensor, shared: Any) -> Tensor:
        x = super()._patch_input(patches, shared)
        return x if self.patch_positions is None else self.patch_positions(x)

    def _token_input(self, tokens: Tensor, shared: Any) -> DecoderInput:
        # the type in quotes: evaluated, it would break the graph of torch.compile
        return self.embedding_dropout(self._embed(tokens)), cast("Sequence[Sequence[Norm]]", self.norms)

    def _next_token_input(self, tokens: Tensor, state: EncoderDecoderState) -> DecoderInput:
        return self._embed(tokens, state.cache), cast("Sequence[Sequence[Norm]]", self.norms)
