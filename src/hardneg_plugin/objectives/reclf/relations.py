"""Word-region vectors, and two ways of relating them: by meaning and by importance (RECLF, reconstructed)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hardneg_plugin.functional.word_region import importance, reason, word_region_attention, word_region_vectors
from hardneg_plugin.objectives.local_features import LocalFeatures


class Round(nn.Module):
    """One round of `reason` with its weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, nodes: Tensor, mask: Tensor, learners: int | None = None) -> Tensor:
        """The updated nodes; arguments as of `reason`."""
        return reason(nodes, mask, self.query.weight, self.key.weight, self.value.weight, learners=learners)


class SemanticRelations(nn.Module):
    """Word-region vectors that belong together, as of a disease and its location, inform each other (SRM).

    Args:
        width: S, of the vectors.
        rounds: of reasoning, each with its weights.
    """

    def __init__(self, width: int, rounds: int) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(Round(width) for _ in range(rounds))

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """The node of the whole pair after all rounds, `(..., S)`.

        Args:
            nodes: `(..., 1 + W, S)`: of the whole pair, then of its words.
            mask: `(..., 1 + W)` bool, True where there is a node.
        """
        *earlier, last = self.rounds
        for one in earlier:
            nodes = one(nodes, mask)
        whole: Tensor = last(nodes, mask, learners=1)
        return whole.squeeze(-2)


class ImportanceRelations(nn.Module):
    """Weighs words by their word-region vectors: clinically important ones more than conjunctions (IRM).

    Args:
        width: S, of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, local: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the vectors `(..., S)`, and the weights β `(..., W)`.

        Args:
            local: `(..., W, S)` word-region vectors.
            mask: `(..., W)` bool, True where there is a word.
        """
        weights = importance(self.score(local).squeeze(-1), mask)
        return _weighted(local, weights), weights


class WordRegionScorer(nn.Module):
    """Scores how well a report fits an image, by its words and the image's regions.

    Args:
        width: D, of words and regions.
        word_region_width: S, of the word-region vectors.
        attention_scale: τ1, of the words' attention.
        rounds: of semantic reasoning; 0: none.
        weigh: weigh words by importance. With neither relation the mean of the vectors is scored.
    """

    def __init__(self, width: int, word_region_width: int, *, attention_scale: float, rounds: int, weigh: bool) -> None:
        super().__init__()
        self.attention_scale = attention_scale
        self.local = nn.Linear(width, word_region_width, bias=False)
        self.whole = nn.Linear(width, word_region_width, bias=False) if rounds else None
        self.semantic = SemanticRelations(word_region_width, rounds) if rounds else None
        self.importance = ImportanceRelations(word_region_width) if weigh else None
        self.readers = nn.ModuleList(nn.Linear(word_region_width, 1) for _ in range(max(1, (rounds > 0) + weigh)))

    def forward(self, words: LocalFeatures, regions: LocalFeatures) -> Tensor:
        """The scores of pairs, one for each of R read-outs (semantic, then importance): `(R, ...)`.

        Args:
            words: `(..., W, D)`.
            regions: `(..., P, D)`; the leading dimensions of both broadcast.
        """
        local = self._word_region_vectors(words, regions)
        mask = words.mask.expand(local.shape[:-1])
        read = []
        if self.semantic is not None and self.whole is not None:
            whole = word_region_vectors(words.whole, regions.whole, self.whole.weight)
            nodes = torch.cat([whole[..., None, :], local], dim=-2)
            read.append(self.semantic(nodes, F.pad(mask, (1, 0), value=True)))
        if self.importance is not None:
            read.append(self.importance(local, mask)[0])
        if not read:
            even = mask.to(local.dtype) / mask.sum(-1, keepdim=True).clamp_min(1)
            read.append(_weighted(local, even))
        return torch.stack([reader(value).squeeze(-1) for reader, value in zip(self.readers, read, strict=True)])

    def attention(self, words: LocalFeatures, regions: LocalFeatures) -> Tensor:
        """The attention of each word to the regions, `(..., W, P)`; arguments as of `forward`."""
        return word_region_attention(
            words.features, regions.features, scale=self.attention_scale, region_mask=regions.mask
        )

    def word_importance(self, words: LocalFeatures, regions: LocalFeatures) -> Tensor | None:
        """The weights β of the words, `(..., W)`; None where words are not weighed. Arguments as of `forward`."""
        if self.importance is None:
            return None
        local = self._word_region_vectors(words, regions)
        weights: Tensor = self.importance(local, words.mask.expand(local.shape[:-1]))[1]
        return weights

    def _word_region_vectors(self, words: LocalFeatures, regions: LocalFeatures) -> Tensor:
        """`(..., W, S)`."""
        return word_region_vectors(words.features, self.attention(words, regions) @ regions.features, self.local.weight)

    def all_pairs(self, words: LocalFeatures, regions: LocalFeatures, chunk: int) -> Tensor:
        """The scores of every report with every image, `(R, M, N)`.

        Several chunks are computed again in the backward pass: memory is that of the scores and of one chunk, which is
        `chunk * N * (1 + W) * (3 D + 4 S rounds)` numbers, or up to half as many again.

        Args:
            words: of M reports, `(M, W, D)`.
            regions: of N images, `(N, P, D)`.
            chunk: reports at a time, a positive integer.
        """
        again = torch.is_grad_enabled() and len(words.features) > chunk
        images = LocalFeatures(*(part[None] for part in regions))
        scores = []
        for start in range(0, len(words.features), chunk):
            reports = LocalFeatures(*(part[start : start + chunk, None] for part in words))
            scores.append(
                checkpoint(self.__call__, reports, images, use_reentrant=False, preserve_rng_state=False)
                if again
                else self(reports, images)
            )
        return torch.cat(scores, dim=1)


def _weighted(local: Tensor, weights: Tensor) -> Tensor:
    """The sum of `(..., W, S)` weighted by `(..., W)`, `(..., S)`, without the products in memory."""
    return (weights[..., None, :] @ local).squeeze(-2)
