"""Recall of images and reports by their embeddings, as a metric of torchmetrics."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.metrics.card_metric import CardMetric
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import measured_scores
from hardneg_plugin.metrics.retrieval import embedding_ranks, retrieval_ranks
from hardneg_plugin.metrics.score_card import ScoreCard, known_values


class RetrievalMetric(CardMetric):
    """Recall of images for their reports ("R@1", "R@5", "R@10") and of reports for their images ("r2i_R@1", ...).

    With the texts of the reports, equal texts count as found, and recall among the 16 most similar reports is scored, too
    ("peers_R@1", ...). Ties and NaN count against the model.

    >>> metric = RetrievalMetric()
    >>> metric.update(preds=torch.eye(3), target=torch.eye(3)[[0, 2, 1]])  # two reports are exchanged
    >>> round(float(metric.compute()["R@1"]), 3)
    0.333
    """

    higher_is_better = True

    def update(
        self, preds: Tensor, target: Tensor, texts: Sequence[str] | None = None, ids: Sequence[str] | None = None
    ) -> None:
        """Add B studies.

        Args:
            preds: embeddings of their images `(B, D)`, of any length.
            target: embeddings of their reports `(B, D)`.
            texts: B reports; with all updates or none.
            ids: B study ids; None where no study comes twice.

        Raises:
            ValueError: the shapes differ.
        """
        if preds.ndim != 2 or preds.shape != target.shape:
            raise ValueError(
                f"Expected `preds` and `target` of one shape (B, D), but got {tuple(preds.shape)} and {tuple(target.shape)}."
            )
        self.remember(self.ids_of(ids, len(preds)), preds, target, [None] * len(preds) if texts is None else texts)

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `retrieval_ranks`."""
        images, reports, texts = columns[0].to(self.device), columns[1].to(self.device), columns[2]
        if None in texts:
            pairs, keys = ((images, reports), (reports, images)), torch.arange(len(ids), device=self.device)
            ranks = {
                name: retrieval_ranks(*pair, keys).tolist()
                for name, pair in zip(("rank", "r2i_rank"), pairs, strict=True)
            }
        else:
            ranks = embedding_ranks(images, reports, texts, Peers.of(texts))
        return measured_scores([known_values(ranks, row) for row in range(len(ids))])
