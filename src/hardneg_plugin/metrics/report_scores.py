"""The metric of report generators: all scores of a split, each study counted once over all ranks."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.data.studies import Batch, FindingsReader
from hardneg_plugin.data.texts import visible_text
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.diversity import collapse_warning
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import PredictionRecord, make_record
from hardneg_plugin.metrics.retrieval import embedding_ranks
from hardneg_plugin.metrics.score_card import ScoreCard, known_values
from hardneg_plugin.metrics.study_metric import StudyMetric


class EvaluationEmbeddings(NamedTuple):
    """Embeddings of B studies in the space in which training aligns images and reports; `(B, D)` each."""

    images: Tensor
    references: Tensor
    generated: Tensor
    """Of the generated reports; like `references`, embedded without their image."""


class ReportScores(StudyMetric[tuple[list[PredictionRecord], ScoreCard]]):
    """The scores of `score_records` for the records of a split, which `records` returns.

    Args:
        caption: BLEU, ROUGE-L, CIDEr and METEOR against the full references; None leaves them out.
        read_findings: reads findings out of a text; None if the data set has no such reader.
        cut: also score against references cut to the maximum length, as published systems do, under names such as "cut/BLEU-4".

    >>> batch = {"ids": ["a", "b"], "references": ["no effusion .", "left effusion ."], "patients": ["p", "q"]}
    >>> batch |= {"cut_references": batch["references"], "labels": [None, None]}
    >>> scores = ReportScores(caption=None)
    >>> scores.update(batch, ["no effusion .", "effusion ."], torch.tensor([[2.0, 4.0], [6.0, 4.0]]))
    >>> float(scores.compute()["report_loss"])
    1.0
    """

    def __init__(
        self, *, caption: CaptionScores | None, read_findings: FindingsReader | None = None, cut: bool = False
    ) -> None:
        super().__init__()
        self.caption, self.read_findings, self.cut = caption, read_findings, cut
        self._measured: Mapping[str, Mapping[str, float]] = {}

    def add_measured(self, by_id: Mapping[str, Mapping[str, float]]) -> None:
        """Add what the model measured once all studies had passed, the same on all ranks; before the scores are computed.

        Args:
            by_id: numbers by name, by study.
        """
        self._measured = by_id
        self._computed = None

    def reset(self) -> None:
        """Forget all studies."""
        super().reset()
        self._measured = {}

    def update(
        self,
        batch: Batch,
        generated: Sequence[str],
        losses: Tensor,
        embeddings: EvaluationEmbeddings | None = None,
    ) -> None:
        """Add B studies.

        Args:
            batch: with their ids, references, patients and label sets.
            generated: B generated reports.
            losses: `(B, 2)`, the negative log-probability of each reference, and the number of its tokens.
            embeddings: of a model that aligns images and reports; None for any other.
        """
        texts = (batch["references"], batch["cut_references"], batch["patients"], batch["labels"])
        self.remember(batch["ids"], generated, *texts, losses.double(), *(embeddings or ()))

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], tuple[list[PredictionRecord], ScoreCard]]:
        """The scores of the split, its records and their card."""
        generated, references, cut, patients, labels, losses, *embeddings = columns
        records = [
            make_record(*texts, patient=patient, labels=label, read_findings=self.read_findings)
            for *texts, patient, label in zip(ids, references, generated, patients, labels, strict=True)
        ]
        for record, cut_reference, (loss, tokens) in zip(records, cut, losses.tolist(), strict=True):
            if self.cut:
                record["cut_reference"] = visible_text(cut_reference)
            if tokens > 0:
                record["measured"] = {"loss": loss, "tokens": tokens}
        peers = Peers.of(references, patients, labels)
        if embeddings:
            _measure(records, EvaluationEmbeddings(*(column.to(self.device) for column in embeddings)), peers)
        for record in records:
            if late := self._measured.get(record["id"]):
                record["measured"] = {**record.get("measured", {}), **late}
        card = score_records(records, caption=self.caption, peers=peers)
        for row, record in enumerate(records):
            record["scores"] = card.of_study(row)
        return card.values, (records, card)

    def records(self) -> list[PredictionRecord]:
        """The record of each study, sorted by id; a collective call."""
        self.compute()
        return self._details[0] if self._details else []

    def card(self) -> ScoreCard:
        """All scores, also those of single studies; a collective call."""
        self.compute()
        return self._details[1] if self._details else ScoreCard()

    def warn_of_collapse(self) -> None:
        """Warn if the model writes the same few reports for all studies; a collective call."""
        message = collapse_warning([record["generated"] for record in self.records()])
        if message is not None:
            warnings.warn(message, stacklevel=2)


def _measure(records: Sequence[PredictionRecord], embeddings: EvaluationEmbeddings, peers: Peers) -> None:
    """Add the ranks among embeddings, and the specificity by images, to the records."""
    images, references, generated = (F.normalize(rows.float(), dim=-1) for rows in embeddings)
    pools = torch.from_numpy(peers.index).to(images.device)
    own = (generated * images).sum(-1)
    others = torch.einsum("nd,nkd->nk", generated, images[pools.clamp_min(0)])
    columns = embedding_ranks(images, references, [record["reference"] for record in records], peers)
    columns["image_specificity"] = peers.picks(own.double().cpu().numpy(), others.double().cpu().numpy()).tolist()
    for index, record in enumerate(records):
        record["measured"] = {**record.get("measured", {}), **known_values(columns, index)}
