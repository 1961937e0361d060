"""Scores of pairs of images and texts by a model that compares words with regions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.objectives import RelationEnhancedObjective
from hardneg_plugin.objectives.local_features import LocalFeatures

IMAGES = 32
"""Images that are scored at a time, with as many reports as the objective takes in a chunk; memory grows with both."""


class PairSide(NamedTuple):
    """N images, or N texts."""

    embeddings: Tensor
    """`(N, D)` of unit length, in the space of the alignment."""
    parts: LocalFeatures
    """Regions of the images, or words of the texts."""


Track = Callable[[Sequence[int]], Iterable[int]]
"""Iterates over the steps, as a progress bar does."""


class PairScorer:
    """The words and regions of a model with RECLF's objective, and the scores of their pairs.

    Args:
        model: in evaluation mode.
        objective: of the model.
    """

    def __init__(self, model: AlignedModel, objective: RelationEnhancedObjective) -> None:
        self.model, self.objective = model, objective

    @classmethod
    def of(cls, model: StudyModel[Any]) -> "PairScorer | None":
        """That of a model; None for one whose only score of a pair is the cosine."""
        if isinstance(model, AlignedModel) and isinstance(model.hard_negatives, RelationEnhancedObjective):
            return cls(model, model.hard_negatives)
        return None

    def words(self, tokens: Tensor, mask: Tensor) -> LocalFeatures:
        """The words of B texts.

        Args:
            tokens: `(B, T)` int64, with the start token.
            mask: `(B, T)` bool, False on padding.
        """
        return self.objective.parts.of_words(self.model.encode_reports(tokens), mask[:, 1:])

    def regions(self, visual: VisualFeatures) -> LocalFeatures:
        """The regions of B images."""
        return self.objective.parts.of_regions(visual.patches, visual.patch_mask)

    @torch.no_grad()
    def scores(self, images: PairSide, texts: PairSide, *, track: Track = iter) -> Tensor:
        """How well each image fits each text.

        Args:
            images: N of them, on any device.
            texts: M of them, on any device.
            track: iterates over the first of each `IMAGES` images.

        Returns:
            `(N, M)`, on the CPU.
        """
        device = self.model.device
        texts = _rows(texts, slice(None), device)
        rows = []
        for start in track(range(0, len(images.embeddings), IMAGES)):
            some = _rows(images, slice(start, start + IMAGES), device)
            rows.append(self.objective.pair_scores(some.embeddings, some.parts, texts.embeddings, texts.parts).T.cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def scores_of_sentences(self, images: PairSide, sentences: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Tensor:
        """By how much the sentences that state a finding fit an image better than those that deny it.

        Args:
            images: N of them.
            sentences: of each of F findings those that state it and those that deny it; the mean over each is taken.

        Returns:
            `(N, F)`, on the CPU.
        """
        sides = [list(side) for pair in sentences for side in pair]
        texts = [text for side in sides for text in side]
        scores = self.scores(images, PairSide(self.model.embed_texts(texts), self.words(*self.model.tokenize(texts))))
        means = [of_side.mean(1) for of_side in scores.split([len(side) for side in sides], dim=1)]
        return torch.stack([stating - denying for stating, denying in zip(means[::2], means[1::2], strict=True)], dim=1)


def _rows(side: PairSide, rows: slice, device: torch.device) -> PairSide:
    return PairSide(side.embeddings[rows].to(device), LocalFeatures(*(part[rows].to(device) for part in side.parts)))
