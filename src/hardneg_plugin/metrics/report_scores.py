"""Everything that is measured about the generated reports of one split, each study counted once over all ranks."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.data.studies import Batch, FindingsReader
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.diversity import collapse_warning
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.records import PredictionRecord, make_record
from hardneg_plugin.metrics.retrieval import ranks_among, retrieval_ranks, score_ranks, score_ranks_among
from hardneg_plugin.metrics.score_card import ScoreCard, score_records
from hardneg_plugin.metrics.study_metric import StudyMetric
from hardneg_plugin.neighbours.groups import groups_of


class EvaluationEmbeddings(NamedTuple):
    """Of B studies, in the space in which training aligns them; `(B, D)` each."""

    images: Tensor
    references: Tensor
    """Of the studies' own reports."""
    generated: Tensor
    """Of the generated ones, likewise without their image."""


class ReportScores(StudyMetric[tuple[list[PredictionRecord], ScoreCard]]):
    """Scores of one split: what `score_records` computes of its records, which `records` gives.

    Args:
        caption: BLEU, ROUGE-L, CIDEr and METEOR against the full references; None leaves them out.
        read_findings: reads findings out of a text; None where the data set has no such reader.
        cut: also score against the references as cut to the maximum length, as published systems do: names "cut/BLEU-4".
    """

    higher_is_better = True

    def __init__(
        self, *, caption: CaptionScores | None, read_findings: FindingsReader | None = None, cut: bool = False
    ) -> None:
        super().__init__()
        self.caption, self.read_findings, self.cut = caption, read_findings, cut

    def update(
        self,
        batch: Batch,
        generated: Sequence[str],
        losses: Tensor,
        embeddings: EvaluationEmbeddings | None = None,
    ) -> None:
        """Add B studies.

        Args:
            batch: theirs.
            generated: B texts.
            losses: `(B, 2)`, the negative log-probability of each report, and the number of its words.
            embeddings: where the model has a space in which images and reports meet.
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
        for record, cut_reference, (loss, words) in zip(records, cut, losses.tolist(), strict=True):
            if self.cut:
                record["cut_reference"] = cut_reference
            if words > 0:
                record["measured"] = {"loss": loss, "words": words}
        peers = Peers.of(references, patients, labels)
        if embeddings:
            _measure(records, EvaluationEmbeddings(*(column.to(self.device) for column in embeddings)), peers)
        card = score_records(records, caption=self.caption, peers=peers)
        for record, scores in zip(records, card.each, strict=True):
            record["scores"] = scores
        return card.values, (records, card)

    def records(self) -> list[PredictionRecord]:
        """What is known of each study, sorted by identifier; to be called on all ranks."""
        self.compute()
        return self._details[0] if self._details else []

    def card(self) -> ScoreCard:
        """All scores, also those of single studies; to be called on all ranks."""
        self.compute()
        return self._details[1] if self._details else ScoreCard()

    def warn_of_collapse(self) -> None:
        """Warn where the model writes hardly more than one report; to be called on all ranks."""
        message = collapse_warning([record["generated"] for record in self.records()])
        if message is not None:
            warnings.warn(message, stacklevel=2)


def _measure(records: Sequence[PredictionRecord], embeddings: EvaluationEmbeddings, peers: Peers) -> None:
    """Write into each record how high images rank their own reports, and reports their images."""
    images, references, generated = (F.normalize(rows.float(), dim=-1) for rows in embeddings)
    pools = torch.from_numpy(peers.index).to(images.device)
    own = (generated * images).sum(-1)
    others = torch.einsum("nd,nkd->nk", generated, images[pools.clamp_min(0)])
    columns = embedding_ranks(images, references, [record["reference"] for record in records], peers)
    columns["image_specificity"] = peers.picks(own.double().cpu().numpy(), others.double().cpu().numpy()).tolist()
    for index, record in enumerate(records):
        record["measured"] = {**record.get("measured", {}), **of_one_study(columns, index)}


def embedding_ranks(images: Tensor, reports: Tensor, references: Sequence[str], peers: Peers) -> dict[str, list[float]]:
    """How high N images rank their own reports, and reports their images, by embeddings: N ranks for each key of `RECALL`.

    Ranks are among all studies, and among each study's peers; these are NaN where it has none.

    Args:
        images: `(N, D)`.
        reports: `(N, D)`, of the references.
        references: N texts; equal ones count as one.
        peers: those of the N studies.
    """
    keys, pools = _candidates(references, peers, images.device)
    return _by_name(
        whole=[retrieval_ranks(images, reports, keys), retrieval_ranks(reports, images, keys)],
        among_peers=[ranks_among(images, reports, pools), ranks_among(reports, images, pools)],
        pools=pools,
    )


def pair_score_ranks(scores: Tensor, references: Sequence[str], peers: Peers) -> dict[str, list[float]]:
    """The ranks of `embedding_ranks` by scores of pairs.

    Args:
        scores: `(N, N)`, of each image (a row) with each report (a column).
        references: N texts; equal ones count as one.
        peers: those of the N studies.
    """
    keys, pools = _candidates(references, peers, scores.device)
    return _by_name(
        whole=[score_ranks(scores, keys), score_ranks(scores.T, keys)],
        among_peers=[score_ranks_among(scores, pools), score_ranks_among(scores.T, pools)],
        pools=pools,
    )


def _candidates(references: Sequence[str], peers: Peers, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which references are equal `(N,)`, and the peers of each study `(N, K)`, -1 where there are fewer."""
    keys = torch.from_numpy(groups_of(references)["text"])
    return keys.to(device), torch.from_numpy(peers.index).to(device)


def _by_name(*, whole: Sequence[Tensor], among_peers: Sequence[Tensor], pools: Tensor) -> dict[str, list[float]]:
    has_peers = (pools >= 0).any(dim=1)
    known = [torch.where(has_peers, ranks.float(), torch.nan) for ranks in among_peers]
    names = ("rank", "r2i_rank", "peers_rank", "peers_r2i_rank")
    return {name: ranks.tolist() for name, ranks in zip(names, (*whole, *known), strict=True)}


def of_one_study(ranks: Mapping[str, Sequence[float]], row: int) -> dict[str, float]:
    """What was measured of a study: without what is NaN."""
    return {name: float(column[row]) for name, column in ranks.items() if not np.isnan(column[row])}
