"""What every report decoder offers: teacher-forced states and log-probabilities, and decoding word by word."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.decoding import Decoded, Decoding, Incremental, decode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every submodule is in the mode it was in, a frozen one too."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


class ReportDecoder(nn.Module, ABC):
    """From image patches to the words of a report.

    Word 0 begins, ends and pads; words are 1 to `vocab_size`. Token rows are `[0, words..., 0, padding 0...]`, and a
    state at position `t` has read `tokens[:, : t + 1]`: it predicts `tokens[:, t + 1]`.
    """

    vocab_size: int
    """Number of words V; there are V + 1 outputs."""
    width: int
    """Width of the hidden states."""

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments, in plain values, that build a decoder of the same shape again even if files it was built from are gone.

        Only those that differ from the arguments it was built with: none for most decoders.
        """
        return {}

    @abstractmethod
    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Hidden states that `classify` reads, teacher-forced.

        Args:
            patches: `(B, P, D_v)` image features.
            tokens: `(B, T)` int64.
            patch_mask: `(B, P)` bool, True where there is a patch; None if there are all.

        Returns:
            `(B, T - 1, width)`. Positions past the end of a report hold finite values without meaning.
        """

    @abstractmethod
    def text_states(self, tokens: Tensor) -> Tensor:
        """The hidden states `(B, T - 1, width)` of the same decoder when it attends to no image (METHOD.md 1.4, 8)."""

    @property
    @abstractmethod
    def word_embedding(self) -> nn.Embedding:
        """The embeddings of its words as its layers get them, in an order of its own: see `word_embeddings`."""

    @abstractmethod
    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """The embedding of each of `tokens[:, 1:]` by itself, `(B, T - 1, word_embedding.embedding_dim)`: no order, no image."""

    @abstractmethod
    def classify(self, states: Tensor) -> Tensor:
        """From states `(..., width)` to log-probabilities `(..., V + 1)`, in float32 under autocast too."""

    @abstractmethod
    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """How much each word attends to each patch, teacher-forced, in evaluation mode whatever the decoder's.

        Args:
            patches, tokens, patch_mask: As in `states`.

        Returns:
            `(B, layers, heads, T - 1, P)`, each row over P of sum 1: at `t` the attention with which `tokens[:, t + 1]`
            was predicted. Patches lie view by view, and row by row within a view.
        """

    @abstractmethod
    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """`decode` without its frame: called in evaluation mode and without gradient."""

    def log_probs(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Teacher-forced log-probabilities `(B, T - 1, V + 1)` of `tokens[:, 1:]`; arguments as in `states`."""
        return self.classify(self.states(patches, tokens, patch_mask=patch_mask))

    def decode(
        self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None, attention: bool = False
    ) -> Decoded:
        """Write reports, in evaluation mode and without gradient; the mode of every submodule is restored.

        Args:
            patches: `(B, P, D_v)` image features.
            decoding: How to search, or sample.
            patch_mask: `(B, P)` bool, True where there is a patch; None if there are all.
            attention: Return what each word attended to.
        """
        with evaluating(self), torch.no_grad():
            decoded = self.search(patches, decoding, patch_mask=patch_mask)
            if attention:
                maps = [self._maps_of(patches, tokens, patch_mask) for tokens in decoded.tokens.unbind(1)]
                decoded = decoded._replace(attention=torch.stack(maps, dim=1))
            return decoded

    def generate(
        self, patches: Tensor, *, beam_size: int = 3, max_length: int = 60, patch_mask: Tensor | None = None
    ) -> Tensor:
        """The best report of a beam search, `(B, max_length)` int64; 0 ends and pads. Short for `decode`."""
        decoding = Decoding(beam_size=beam_size, max_length=max_length)
        return self.decode(patches, decoding, patch_mask=patch_mask).tokens[:, 0]

    def _maps_of(self, patches: Tensor, tokens: Tensor, patch_mask: Tensor | None) -> Tensor:
        rows = torch.cat([tokens.new_zeros(len(tokens), 1), tokens], dim=1)
        return self.attention_maps(patches, rows, patch_mask=patch_mask)


class IncrementalDecoder(ReportDecoder, Incremental):
    """A report decoder that reads one token at a time, and so decodes by `decoding.decode`."""

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """Beam search, greedy decoding or sampling, whichever is asked for."""
        return decode(self, patches, decoding, patch_mask=patch_mask)
