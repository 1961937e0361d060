"""All scores of the records of a split: what training, evaluation and the scoring of a predictions file share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from hardneg_plugin.metrics.caption import CAPTION_SCORES, CaptionScores
from hardneg_plugin.metrics.clinical import ClinicalMetric
from hardneg_plugin.metrics.diversity import diversity
from hardneg_plugin.metrics.findings import findings_scores
from hardneg_plugin.metrics.peers import Peers, stated_findings
from hardneg_plugin.metrics.records import PredictionRecord
from hardneg_plugin.metrics.significance import intervals
from hardneg_plugin.metrics.tally import Floats, Scored, Sums, Tally, means

RECALL = {
    "rank": ("R@", (1, 5, 10)),
    "r2i_rank": ("r2i_R@", (1, 5, 10)),
    "peers_rank": ("peers_R@", (1, 5)),
    "peers_r2i_rank": ("peers_r2i_R@", (1, 5)),
}
"""By the rank that was measured the score's name and its k: the share of studies with a rank up to k."""

AMONG_PEERS = {"peers_rank", "peers_r2i_rank", "image_specificity"}
"""What is measured where a study has peers."""


@dataclass
class ScoreCard:
    """The scores of N studies."""

    values: dict[str, float] = field(default_factory=dict)
    each: list[dict[str, float]] = field(default_factory=list)
    """What each study scores for itself, in the order of the records."""
    tallies: list[Tally] = field(default_factory=list)
    """How scores follow from sums over studies; "unique_share", "distinct-n" and the "cut/" ones do not."""

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval, over studies, of every score that has a tally."""
        return intervals(self.tallies)

    def add(self, scored: Scored) -> None:
        """Take up more scores of the same studies."""
        self.values |= scored.values
        self.tallies += scored.tallies
        for name, column in scored.columns.items():
            for scores, value in zip(self.each, column, strict=True):
                if not math.isnan(value):
                    scores[name] = float(value)


def score_records(
    records: Sequence[PredictionRecord],
    *,
    caption: CaptionScores | None = None,
    clinical: Sequence[ClinicalMetric] = (),
    peers: Peers | None = None,
) -> ScoreCard:
    """Score N >= 1 studies.

    Args:
        records: findings, losses and ranks are scored where all of them have these.
        caption: BLEU, ROUGE-L, CIDEr and METEOR, against the full and, where records have them, the cut references; None leaves
            them out.
        clinical: further metrics, of models or label files.
        peers: those of the records; None: to be found.
    """
    generated = [record["generated"] for record in records]
    card = ScoreCard(each=[{} for _ in records])
    if caption is not None:
        card.add(caption(generated, [record["reference"] for record in records]))
        if all("cut_reference" in record for record in records):
            cut = caption(generated, [record["cut_reference"] for record in records])
            card.values |= {f"cut/{name}": value for name, value in cut.values.items()}
    findings = stated_findings(records)
    if findings is not None:
        card.add(findings_scores(*findings))
    peers = peers or Peers.of_records(records)
    card.add(Scored.of_means({"specificity": peers.specificity(generated).tolist()}))
    if findings is not None:
        card.add(Scored.of_means({"specificity_findings": peers.findings_specificity(*findings).tolist()}))
    for scored in measured_scores([record.get("measured", {}) for record in records]):
        card.add(scored)
    card.values |= diversity(generated)
    length = Scored.of_means({"length": [len(text.split()) for text in generated]})
    card.tallies += length.tallies
    for metric in clinical:
        card.add(metric(generated, [record["reference"] for record in records], [record["id"] for record in records]))
    return card


@cache
def every_score() -> frozenset[str]:
    """The names of all scores that have an interval, without clinical ones: those of a study of which everything is known."""
    ranks = dict.fromkeys(RECALL, 1.0)
    known = PredictionRecord(
        id="any",
        reference="any words",
        generated="any words",
        findings={"reference": [["any", []]], "generated": [["any", []]]},
        measured={"loss": 1.0, "words": 2.0, "image_specificity": 1.0, **ranks},
    )
    return frozenset(CAPTION_SCORES).union(*(tally.values() for tally in score_records([known]).tallies))


def scores_and_intervals(cards: Mapping[str, ScoreCard]) -> dict[str, Any]:
    """What metrics.json holds of the scores of splits: by split their values, and under "intervals" [low, high] of each."""
    return {
        **{split: card.values for split, card in cards.items()},
        "intervals": {
            split: {name: list(ends) for name, ends in card.intervals().items()} for split, card in cards.items()
        },
    }


def measured_scores(measured: Sequence[Mapping[str, float]]) -> list[Scored]:
    """What follows from the `measured` of N records: of all studies, and among peers of those that have some."""
    known = [set(of_study) for of_study in measured]
    names = set.intersection(*known) | AMONG_PEERS & set[str]().union(*known)
    scored = []
    if {"loss", "words"} <= names:
        rows = np.array([[of_study["loss"], of_study["words"]] for of_study in measured])
        tally = Sums(rows, _per_word)
        scored.append(Scored(tally.values(), {"report_loss": (rows[:, 0] / rows[:, 1]).tolist()}, [tally]))
    for rank, (name, cutoffs) in RECALL.items():
        if rank in names:
            ranks = _column(measured, rank)
            is_hit = {f"{name}{k}": np.where(np.isnan(ranks), np.nan, ranks <= k).tolist() for k in cutoffs}
            hits = means(is_hit)
            scored.append(Scored(hits.values(), {rank: ranks.tolist()}, [hits]))
    if "image_specificity" in names:
        scored.append(Scored.of_means({"image_specificity": _column(measured, "image_specificity").tolist()}))
    return scored


def _column(measured: Sequence[Mapping[str, float]], name: str) -> Floats:
    return np.array([of_study.get(name, np.nan) for of_study in measured], dtype=np.float64)


def _per_word(sums: Floats) -> dict[str, Floats]:
    return {"report_loss": sums[..., 0] / np.maximum(sums[..., 1], 1)}
