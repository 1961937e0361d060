"""Metrics over studies that give every score with its interval."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.study_metric import StudyMetric


class CardMetric(StudyMetric[ScoreCard]):
    """A `StudyMetric` whose details are the card of all its scores."""

    is_differentiable = False

    @abstractmethod
    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """The scores of a split; arguments as of `score`."""

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], ScoreCard]:
        """See `StudyMetric`."""
        card = self.card_of(ids, *columns)
        return card.values, card

    def card(self) -> ScoreCard:
        """All scores, with those of single studies and 95 % intervals (`card().intervals()`); a collective call."""
        self.compute()
        return self._details or ScoreCard()

    def ids_of(self, ids: Sequence[str] | None, studies: int) -> Sequence[str]:
        """The given ids, or new ones in the order of ranks and updates, so that every study counts.

        Args:
            ids: those given to `update`, if any.
            studies: how many it adds.
        """
        if ids is not None:
            return ids
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        seen = sum(len(batch[0]) for batch in self._batches)
        return [f"{rank:06d}-{seen + place:012d}" for place in range(studies)]
