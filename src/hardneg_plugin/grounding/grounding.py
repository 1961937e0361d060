"""The grounded-knowledge module: each entity attends to the regions of an image.

After GK-MVLP (Deng et al., Biomedical Signal Processing and Control, arXiv 2404.14750); reconstructed.
"""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.errors import UserError, require_count
from hardneg_plugin.grounding.regions import Cells, Learned, Patches, Regions
from hardneg_plugin.knowledge import Knowledge, Prompt


class Grounding(nn.Module):
    """Features of each prompt's entity in an image: `g = CrossAttn(query = q, key/value = r + region embedding)`.

    A prompt q attends to the regions r of the image; no label is an input, so inference is the same as training. q is the mean of
    learned embeddings of the prompt's words: prompts share words, and inference needs no text encoder.

    Args:
        patch_width: D.
        knowledge: gives the prompts.
        width: of the features, a multiple of `heads`.
        heads: of the attention.
        regions: `Cells`, `Boxes` or `Learned`, or a callable that makes `Learned` for the width D; None: 3 x 3 cells.

    >>> from hardneg_plugin.knowledge import ChestXray
    >>> grounding = Grounding(32, knowledge=ChestXray(), width=16)
    >>> grounding(Patches(torch.randn(2, 36, 32), mask=None, grid=(6, 6))).shape == (2, len(grounding.prompts), 16)
    True

    Raises:
        UserError: a width that is no multiple of `heads`.
    """

    words: Tensor

    def __init__(
        self,
        patch_width: int,
        *,
        knowledge: Knowledge,
        width: int = 256,
        heads: int = 8,
        regions: Regions | Callable[[int], Learned] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("patch_width", patch_width), ("width", width), ("heads", heads)):
            require_count(value, f"grounding: {name}", "a positive integer, the width a multiple of heads")
        if width % heads:
            raise UserError(
                f"grounding: expected a width that is a multiple of heads, but got {width} and {heads} heads."
            )
        self.width = width
        self.prompts = knowledge.prompts
        self.regions = Cells() if regions is None else regions if isinstance(regions, Regions) else regions(patch_width)
        vocabulary, rows = _words_of(self.prompts)
        self.register_buffer("words", rows, persistent=False)
        self.embedding = nn.EmbeddingBag(1 + vocabulary, width, mode="mean", padding_idx=0)
        self.project = nn.Linear(patch_width, width)
        self.kind = nn.Embedding(self.regions.kinds, width)
        self.query_norm, self.region_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Patches) -> Tensor:
        """The features of each of Q prompts, `(B, Q, width)`; those of a study depend on its patches alone."""
        return self._found(patches, maps=False)[0]

    def attention(self, patches: Patches) -> Tensor:
        """The attention of each prompt to the patches, by way of the regions: `(B, Q, P)`, of sum 1."""
        looked, weights = self._found(patches, maps=True)[1:]
        return looked @ weights

    def _found(self, patches: Patches, *, maps: bool) -> tuple[Tensor, Tensor, Tensor]:
        weights, kinds = self.regions(patches)
        features = patches.features
        if patches.mask is not None:  # a missing patch may hold anything: its weight 0 times inf is NaN
            features = torch.where(patches.mask[..., None], features, 0.0)
        regions = self.region_norm(self.project(weights.to(features.dtype) @ features) + self.kind(kinds))
        queries = self.embedding(self.words).expand(len(features), -1, -1)
        is_missing = weights.sum(-1) == 0
        # a study without any region attends to all empty ones: a softmax needs something
        is_missing = is_missing & ~is_missing.all(-1, keepdim=True)
        seen, looked = self.look(
            self.query_norm(queries), regions, regions, key_padding_mask=is_missing, need_weights=maps
        )
        found = queries + seen
        return self.norm(found + self.think(found)), looked, weights


def _words_of(prompts: tuple[Prompt, ...]) -> tuple[int, Tensor]:
    """The number of different words of the prompts, and the word ids of each prompt `(Q, T)`, from 1, padded with 0."""
    phrases = [prompt.phrase.split() for prompt in prompts]
    numbers = {word: number for number, word in enumerate(sorted(set(chain(*phrases))), start=1)}
    rows = [torch.tensor([numbers[word] for word in phrase]) for phrase in phrases]
    return len(numbers), pad_sequence(rows, batch_first=True)
