"""The grounded-knowledge module: each entity that may be found looks for its region.

After GK-MVLP (Deng et al., Biomedical Signal Processing and Control, arXiv 2404.14750); reconstructed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.grounding.regions import Cells, Learned, Patches, Regions
from hardneg_plugin.knowledge import Knowledge, Prompt


class Grounding(nn.Module):
    """What each prompt finds in an image: `g = CrossAttn(query = q, key/value = r + region embedding)`.

    A prompt q looks at the regions r of the image; no label enters, so that inference does the same. q is the mean of word
    embeddings over the prompt's words, which the module learns itself: prompts share the words of their places, and inference
    needs no text encoder.

    Args:
        patch_width: D.
        knowledge: whose prompts.
        width: of the entities, a multiple of `heads`.
        heads: of the attention.
        regions: `Cells`, `Boxes` or `Learned`; None: cells of 3 x 3. A class or partial that takes a width gets D.

    Raises:
        UserError: widths and heads do not fit.
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
        if width < 1 or heads < 1 or width % heads:
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
        """What is found of each of Q prompts `(B, Q, width)`; a study's depends on its own patches alone."""
        return self._found(patches, maps=False)[0]

    def attention(self, patches: Patches) -> Tensor:
        """How much each prompt looks at each patch, by way of the regions: `(B, Q, P)`, of sum 1."""
        looked, weights = self._found(patches, maps=True)[1:]
        return looked @ weights

    def _found(self, patches: Patches, *, maps: bool) -> tuple[Tensor, Tensor, Tensor]:
        weights, kinds = self.regions(patches)
        features = patches.features
        if patches.mask is not None:  # whatever a missing patch holds is not to be multiplied by its weight 0
            features = torch.where(patches.mask[..., None], features, 0.0)
        regions = self.region_norm(self.project(weights.to(features.dtype) @ features) + self.kind(kinds))
        queries = self.embedding(self.words).expand(len(features), -1, -1)
        is_missing = weights.sum(-1) == 0
        # a study without any region looks at all of the empty ones: a softmax needs something
        is_missing = is_missing & ~is_missing.all(-1, keepdim=True)
        seen, looked = self.look(
            self.query_norm(queries), regions, regions, key_padding_mask=is_missing, need_weights=maps
        )
        found = queries + seen
        return self.norm(found + self.think(found)), looked, weights


def _words_of(prompts: tuple[Prompt, ...]) -> tuple[int, Tensor]:
    """The number of different words of all prompts, and of each prompt its words `(Q, T)`, from 1; 0 fills up."""
    phrases = [prompt.phrase.split() for prompt in prompts]
    numbers = {
        word: number for number, word in enumerate(sorted({word for phrase in phrases for word in phrase}), start=1)
    }
    longest = max(map(len, phrases))
    rows = [F.pad(torch.tensor([numbers[word] for word in phrase]), (0, longest - len(phrase))) for phrase in phrases]
    return len(numbers), torch.stack(rows)
