"""What is measured of a split of studies by a model that writes nothing: how images and reports find each other."""

from typing import Any

from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.records import PredictionRecord
from hardneg_plugin.metrics.report_scores import embedding_ranks, of_one_study
from hardneg_plugin.metrics.score_card import ScoreCard, measured_scores
from hardneg_plugin.metrics.study_metric import StudyMetric


class AlignmentScores(StudyMetric[ScoreCard]):
    """Recall in both directions, over the whole split and among each study's closest peers."""

    higher_is_better = True

    def update(self, batch: Batch, images: Tensor, reports: Tensor) -> None:
        """Add B studies, their images and reports embedded as `(B, D)`."""
        self.remember(batch["ids"], batch["references"], batch["patients"], batch["labels"], images, reports)

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], ScoreCard]:
        """The scores of the split and their card."""
        references, patients, labels, images, reports = columns
        peers = Peers.of(references, patients, labels)
        ranks = embedding_ranks(images.to(self.device), reports.to(self.device), references, peers)
        card = ScoreCard(each=[{} for _ in ids])
        for scored in measured_scores([of_one_study(ranks, row) for row in range(len(ids))]):
            card.add(scored)
        return card.values, card

    def card(self) -> ScoreCard:
        """All scores, also those of single studies; to be called on all ranks."""
        self.compute()
        return self._details or ScoreCard()

    def records(self) -> list[PredictionRecord]:
        """None: nothing is written."""
        return []
