"""All scores of the records of a split: what training, evaluation and the scoring of a predictions file share."""

from collections.abc import Mapping, Sequence

import numpy as np

from hardneg_plugin.data.report_sections import SECTION_NAMES, split_sections, without_marks
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.clinical import ClinicalMetric
from hardneg_plugin.metrics.diversity import diversity
from hardneg_plugin.metrics.findings import findings_scores
from hardneg_plugin.metrics.findings_by_frequency import frequency_scores
from hardneg_plugin.metrics.informativeness import informativeness
from hardneg_plugin.metrics.peers import Peers, stated_findings
from hardneg_plugin.metrics.records import PredictionRecord
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic, means

RECALL = {
    "rank": ("R@", (1, 5, 10)),
    "r2i_rank": ("r2i_R@", (1, 5, 10)),
    "peers_rank": ("peers_R@", (1, 5)),
    "peers_r2i_rank": ("peers_r2i_R@", (1, 5)),
    "likelihood_rank": ("likelihood_R@", (1,)),
    "likelihood_r2i_rank": ("likelihood_r2i_R@", (1,)),
}
"""By the measured rank the score's name and its cutoffs k: the share of studies with a rank <= k."""

AMONG_PEERS = {"peers_rank", "peers_r2i_rank", "likelihood_rank", "likelihood_r2i_rank", "image_specificity"}
"""Measured only of studies that have peers."""


def score_records(
    records: Sequence[PredictionRecord],
    *,
    caption: CaptionScores | None = None,
    peers: Peers | None = None,
    given: tuple[Sequence[str], Sequence[str]] | None = None,
) -> ScoreCard:
    """Score N >= 1 studies.

    Args:
        records: findings, losses and ranks are scored where all records have them.
        caption: BLEU, ROUGE-L, CIDEr and METEOR, against the full and, where records have them, the cut references; None leaves
            them out.
        peers: those of the records; None finds them.
        given: N generated reports and N references as `caption` takes them; None: those of the records.

    >>> from hardneg_plugin.metrics.records import make_record
    >>> records = [make_record("a", "no effusion .", "no effusion ."), make_record("b", "left effusion .", "no effusion .")]
    >>> score_records(records).values["specificity"]
    0.5
    """
    generated = [without_marks(record["generated"]) for record in records]
    references = [without_marks(record["reference"]) for record in records]
    card = ScoreCard()
    if caption is not None:
        card.add(caption(*(given or (generated, references))))
        if all("cut_reference" in record for record in records):
            cut = caption(generated, [without_marks(record["cut_reference"]) for record in records])
            card.values |= {f"cut/{name}": value for name, value in cut.values.items()}
        card.add(section_scores(records, caption))
    findings = stated_findings(records)
    if findings is not None:
        for scores in (findings_scores, frequency_scores, informativeness):
            card.add(scores(*findings))
    peers = peers or Peers.of_records(records)
    card.add(ScoreCard.of_means({"specificity": peers.specificity(generated).tolist()}))
    if findings is not None:
        card.add(ScoreCard.of_means({"specificity_findings": peers.findings_specificity(*findings).tolist()}))
    card.add(measured_scores([record.get("measured", {}) for record in records]))
    length = means({"length": [len(text.split()) for text in generated]})
    card.add(ScoreCard(values=diversity(generated), statistics=[length]))
    return card


def clinical_scores(records: Sequence[PredictionRecord], metrics: Sequence[ClinicalMetric]) -> ScoreCard:
    """The scores of further metrics, of models or label files.

    Args:
        records: N >= 1 studies.
        metrics: none gives an empty card.

    Raises:
        UserError: as of `ClinicalMetric`.
    """
    generated = [without_marks(record["generated"]) for record in records]
    references = [without_marks(record["reference"]) for record in records]
    card = ScoreCard()
    for metric in metrics:
        card.add(metric(generated, references, [record["id"] for record in records]))
    return card


def section_scores(records: Sequence[PredictionRecord], caption: CaptionScores) -> ScoreCard:
    """Caption scores of each section, such as "impression/BLEU-4", over the studies whose reference has it.

    Args:
        records: N studies; without references of sections (`split_sections`) there are no scores.
        caption: the scores.

    A generated report without the section scores as an empty one, and one that is not divided at all as findings.
    """
    references = [split_sections(record["reference"]) or {} for record in records]
    card = ScoreCard()
    for section in SECTION_NAMES:
        rows = [row for row, reference in enumerate(references) if reference.get(section)]
        if rows:
            written = [
                (split_sections(text) or {"findings": text}).get(section, "")
                for text in (records[row]["generated"] for row in rows)
            ]
            of_section = caption(written, [references[row][section] for row in rows])
            card.values |= {f"{section}/{name}": value for name, value in of_section.values.items()}
            card.values[f"{section}/studies"] = len(rows)
            card.statistics += [
                statistic.of_some(rows, len(records), f"{section}/")
                for statistic in of_section.statistics
                if isinstance(statistic, SumStatistic)
            ]
    return card


def measured_scores(measured: Sequence[Mapping[str, float]]) -> ScoreCard:
    """The scores that follow from what the model measured of N studies: the `measured` of their records.

    A score needs its entry of all studies; one among peers needs it of those that have peers.
    """
    known = [set(of_study) for of_study in measured]
    names = set.intersection(*known) | AMONG_PEERS & set[str]().union(*known)
    card = ScoreCard()
    if {"loss", "tokens"} <= names:
        rows = np.array([[of_study["loss"], of_study["tokens"]] for of_study in measured])
        loss = SumStatistic(rows, _per_token)
        card.add(ScoreCard(loss.values(), {"report_loss": (rows[:, 0] / rows[:, 1]).tolist()}, [loss]))
    for rank, (name, cutoffs) in RECALL.items():
        if rank in names:
            ranks = _column(measured, rank)
            is_hit = {f"{name}{k}": np.where(np.isnan(ranks), np.nan, ranks <= k).tolist() for k in cutoffs}
            hits = means(is_hit)
            card.add(ScoreCard(hits.values(), {rank: ranks.tolist()}, [hits]))
    if "image_specificity" in names:
        card.add(ScoreCard.of_means({"image_specificity": _column(measured, "image_specificity").tolist()}))
    return card


def _column(measured: Sequence[Mapping[str, float]], name: str) -> Floats:
    return np.array([of_study.get(name, np.nan) for of_study in measured], dtype=np.float64)


def _per_token(sums: Floats) -> dict[str, Floats]:
    return {"report_loss": sums[..., 0] / np.maximum(sums[..., 1], 1)}
