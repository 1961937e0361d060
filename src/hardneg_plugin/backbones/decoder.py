"""The interface of report decoders: teacher-forced states and log-probabilities, and decoding."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.search import Incremental


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; every submodule returns to its own mode afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


class ReportDecoder(nn.Module, ABC):
    """From image patches to the tokens of a report.

    Token 0 begins, ends and pads; the tokens of the text are 1 to `vocab_size`. Rows are `[0, tokens..., 0, padding 0...]`. The
    state at position `t` has read `tokens[:, : t + 1]` and predicts `tokens[:, t + 1]`.
    """

    vocab_size: int
    """Number of tokens V; there are V + 1 outputs."""
    width: int
    """Width of the hidden states."""

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments that rebuild the decoder without the files it was built from, as plain values.

        Only those that differ from the arguments it was built with; empty for most decoders.
        """
        return {}

    @property
    def complete_settings(self) -> dict[str, Any]:
        """As `settings`, for a file that holds all weights, with those that checkpoints leave out.

        Raises:
            UserError: no such file can rebuild the decoder.
        """
        return self.settings

    def left_out_weights(self) -> dict[str, Tensor]:
        """The weights that `state_dict` leaves out, by name; none of most decoders."""
        return {}

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check the `settings` of a checkpoint before its weights are loaded.

        Raises:
            UserError: the checkpoint leaves out weights that this decoder does not have.
        """

    @abstractmethod
    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Hidden states that `classify` reads, teacher-forced.

        Args:
            patches: `(B, P, D_v)` image features.
            tokens: `(B, T)` int64.
            patch_mask: `(B, P)` bool, True where there is a patch; None: all are there.

        Returns:
            `(B, T - 1, width)`; finite but meaningless past the end of a report.
        """

    @abstractmethod
    def text_states(self, tokens: Tensor) -> Tensor:
        """Hidden states `(B, T - 1, width)` of the report alone, without attention to an image."""

    @property
    @abstractmethod
    def word_embedding(self) -> nn.Embedding:
        """The layer of input embeddings. Rows may be in another order than tokens; `word_embeddings` looks them up."""

    @abstractmethod
    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """Input embeddings of `tokens[:, 1:]`, `(B, T - 1, word_embedding.embedding_dim)`, without positions."""

    @abstractmethod
    def classify(self, states: Tensor) -> Tensor:
        """From states `(..., width)` to log-probabilities `(..., V + 1)`, in float32 under autocast too."""

    @abstractmethod
    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Attention of each token to each patch, teacher-forced, always in evaluation mode.

        Args:
            patches, tokens, patch_mask: As in `states`.

        Returns:
            `(B, layers, heads, T - 1, P)`, summing to 1 over P; index `t` holds the attention that predicted `tokens[:, t + 1]`.
            Patches lie view by view, and row by row within a view.
        """

    @abstractmethod
    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """Implements `decode`, which calls it in evaluation mode and without gradient."""

    def log_probs(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """Teacher-forced log-probabilities `(B, T - 1, V + 1)` of `tokens[:, 1:]`; arguments as in `states`."""
        return self.classify(self.states(patches, tokens, patch_mask=patch_mask))

    def log_probs_of_pairs(
        self, patches: Tensor, tokens: Tensor, image: Tensor, report: Tensor, *, patch_mask: Tensor | None = None
    ) -> Tensor:
        """Teacher-forced log-probabilities of R pairs of an image and a report, `(R, T - 1, V + 1)`, in evaluation mode.

        As `log_probs` of `patches[image]` and `tokens[report]`. Decoders may read each image and each report once.

        Args:
            patches: `(N, P, D_v)` image features.
            tokens: `(M, T)` int64.
            image: `(R,)` int64, of each pair an index of `patches`.
            report: `(R,)` int64, of each pair an index of `tokens`.
            patch_mask: `(N, P)` bool, True where there is a patch; None: all are there.
        """
        mask = None if patch_mask is None else patch_mask[image]
        with evaluating(self):
            return self.log_probs(patches[image], tokens[report], patch_mask=mask)

    def decode(
        self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None, attention: bool = False
    ) -> Decoded:
        """Generate reports, in evaluation mode and without gradient; the mode of every submodule is restored.

        Args:
            patches: `(B, P, D_v)` image features.
            decoding: Search or sampling, and its options.
            patch_mask: `(B, P)` bool, True where there is a patch; None: all are there.
            attention: Return the attention maps of the reports, too.
        """
        with evaluating(self), torch.no_grad():
            decoded = self.search(patches, decoding, patch_mask=patch_mask)
            if attention:
                rows = F.pad(decoded.tokens, (1, 0)).unbind(1)
                maps = [self.attention_maps(patches, tokens, patch_mask=patch_mask) for tokens in rows]
                decoded = decoded._replace(attention=torch.stack(maps, dim=1))
            return decoded

    def generate(
        self, patches: Tensor, *, beam_size: int = 3, max_length: int = 60, patch_mask: Tensor | None = None
    ) -> Tensor:
        """The best report of a beam search, `(B, max_length)` int64; 0 ends and pads. A shorthand for `decode`.

        Args:
            patches: `(B, P, D_v)` image features.
            beam_size, max_length: As in `Decoding`.
            patch_mask: As in `decode`.
        """
        decoding = Decoding(beam_size=beam_size, max_length=max_length)
        return self.decode(patches, decoding, patch_mask=patch_mask).tokens[:, 0]


class IncrementalDecoder(Incremental, ReportDecoder):
    """A report decoder that reads one token at a time, and decodes by `Incremental.search`."""
