"""The metric of models that write no reports: how well images and reports retrieve each other."""

from typing import Any

from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.metrics.card_metric import CardMetric
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import measured_scores
from hardneg_plugin.metrics.records import PredictionRecord
from hardneg_plugin.metrics.retrieval import embedding_ranks
from hardneg_plugin.metrics.score_card import ScoreCard, known_values


class AlignmentScores(CardMetric):
    """Recall in both directions, over the whole split and among each study's peers.

    >>> batch = {"ids": ["a", "b"], "references": ["clear .", "effusion ."], "patients": ["p", "q"], "labels": [None, None]}
    >>> scores = AlignmentScores()
    >>> embeddings = Tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> scores.update(batch, images=embeddings, reports=embeddings)
    >>> float(scores.compute()["R@1"])
    1.0
    """

    higher_is_better = True

    def update(self, batch: Batch, images: Tensor, reports: Tensor) -> None:
        """Add B studies.

        Args:
            batch: with their ids, references, patients and label sets.
            images: `(B, D)` embeddings.
            reports: `(B, D)` embeddings of the references.
        """
        self.remember(batch["ids"], batch["references"], batch["patients"], batch["labels"], images, reports)

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """The recall of the split."""
        references, patients, labels, images, reports = columns
        peers = Peers.of(references, patients, labels)
        ranks = embedding_ranks(images.to(self.device), reports.to(self.device), references, peers)
        return measured_scores([known_values(ranks, row) for row in range(len(ids))])

    def records(self) -> list[PredictionRecord]:
        """Empty: the model writes no reports."""
        return []
