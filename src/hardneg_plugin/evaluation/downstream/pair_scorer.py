"""How a model that matches words with regions scores pairs of images and texts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardneg_plugin.backbones.visual import VisualFeatures
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.objectives import RelationEnhancedObjective
from hardneg_plugin.objectives.local_features import LocalFeatures

IMAGES = 32
"""So many images at a time are scored, with so many reports as a chunk of the objective has: what memory grows with."""


class Side(NamedTuple):
    """N images, or N texts."""

    whole: Tensor
    """`(N, D)` of unit length, in the space of the alignment."""
    parts: LocalFeatures
    """Their regions, or their words."""


Track = Callable[[Sequence[int]], Iterable[int]]
"""Goes through the steps, as a progress bar."""


class PairScorer:
    """The words and regions of a model with RECLF's objective, and the scores of their pairs, in evaluation mode.

    Args:
        model: it.
        objective: its own.
    """

    def __init__(self, model: AlignedModel, objective: RelationEnhancedObjective) -> None:
        self.model, self.objective = model, objective

    @classmethod
    def of(cls, model: StudyModel[Any]) -> "PairScorer | None":
        """None: the model has no scores of pairs but the cosine."""
        if isinstance(model, AlignedModel) and isinstance(model.hard_negatives, RelationEnhancedObjective):
            return cls(model, model.hard_negatives)
        return None

    def words(self, tokens: Tensor, mask: Tensor) -> LocalFeatures:
        """The words of texts, as tokens `(B, T)` with the one that begins them."""
        return self.objective.parts.of_words(self.model.encode_reports(tokens), mask[:, 1:])

    def regions(self, seen: VisualFeatures) -> LocalFeatures:
        """The regions of images."""
        return self.objective.parts.of_regions(seen.patches, seen.patch_mask)

    @torch.no_grad()
    def scores(self, images: Side, texts: Side, *, track: Track = iter) -> Tensor:
        """How well each of N images fits each of M texts, `(N, M)` on the CPU; `track` goes through the images, some at a time."""
        device = self.model.device
        texts = _rows(texts, slice(None), device)
        rows = []
        for start in track(range(0, len(images.whole), IMAGES)):
            some = _rows(images, slice(start, start + IMAGES), device)
            rows.append(self.objective.pair_scores(some.whole, some.parts, texts.whole, texts.parts).T.cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def scores_of_sentences(self, images: Side, sentences: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Tensor:
        """How much better the sentences that state each of F findings fit N images than those that deny it: `(N, F)`.

        Args:
            images: them.
            sentences: of each finding, those that state it and those that deny it; the mean over either is taken.
        """
        sides = [list(side) for pair in sentences for side in pair]
        texts = [text for side in sides for text in side]
        scores = self.scores(images, Side(self.model.embed_texts(texts), self.words(*self.model.tokenize(texts))))
        means = [of_side.mean(1) for of_side in scores.split([len(side) for side in sides], dim=1)]
        return torch.stack([stating - denying for stating, denying in zip(means[::2], means[1::2], strict=True)], dim=1)


def _rows(side: Side, rows: slice, device: torch.device) -> Side:
    return Side(side.whole[rows].to(device), LocalFeatures(*(part[rows].to(device) for part in side.parts)))
