"""A plain pre-norm transformer from image patches to the report: the baseline of the memory-driven decoders."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from hardneg_plugin.backbones.encoder_decoder import DecoderInput, EncoderDecoder, EncoderDecoderState
from hardneg_plugin.backbones.layers import Norm, PatchPositions, decoder_norms, xavier_matrices


class TransformerDecoder(EncoderDecoder):
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
        super().__init__(
            vocab_size,
            patch_width,
            width=width,
            heads=heads,
            layers=layers,
            feedforward_width=feedforward_width,
            dropout=dropout,
            patch_dropout=patch_dropout,
            norm=nn.LayerNorm,
        )
        self.patch_positions = None if max_patches is None else PatchPositions(max_patches, width)
        self.norms = decoder_norms(layers, width, nn.LayerNorm)
        xavier_matrices(self)

    def _patch_input(self, patches: Tensor, shared: Any) -> Tensor:
        x: Tensor = self.project(patches)
        return x if self.patch_positions is None else self.patch_positions(x)

    def _word_input(self, words: Tensor, shared: Any) -> DecoderInput:
        return self.embedding_dropout(self._embed(words)), cast(Sequence[Sequence[Norm]], self.norms)

    def _next_word_input(self, words: Tensor, state: EncoderDecoderState) -> DecoderInput:
        return self._embed_next(words, state), cast(Sequence[Sequence[Norm]], self.norms)
