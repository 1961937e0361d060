"""The downstream tasks on any data: from the frozen features of splits to what each study adds to the scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.evaluation.downstream.frozen_features import EncodedSplit
from hardneg_plugin.evaluation.downstream.linear_probe import LabelledFeatures, linear_probe
from hardneg_plugin.evaluation.downstream.zero_shot import zero_shot_scores
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import RECALL
from hardneg_plugin.metrics.retrieval import embedding_ranks, pair_score_ranks
from hardneg_plugin.metrics.score_card import known_values
from hardneg_plugin.metrics.task_scores import TaskRow

BY_PAIR = "pair_"
"""Prefix of scores that are computed from scores of pairs, not from embeddings."""


@dataclass
class TaskResult:
    """A task on a split of N studies."""

    rows: list[TaskRow]
    """One for each study."""
    baselines: dict[str, float] = field(default_factory=dict)
    """The same scores without looking at images."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Chosen on validation."""


def mean_rows(split: EncodedSplit, values: Iterable[tuple[int, str, str, float]]) -> list[TaskRow]:
    """Rows of a task whose scores are means.

    Args:
        split: of N studies.
        values: each the row of a study, the name of a score, the group over which the score is averaged first, such as a finding,
            and what is counted.
    """
    rows: list[TaskRow] = [{"id": study, "means": {}, "rankings": {}} for study in split.studies.ids]
    for row, name, group, value in values:
        by_group = rows[row]["means"].setdefault(name, {})
        total, count = by_group.get(group, (0.0, 0.0))
        by_group[group] = [total + value, count + 1.0]
    return rows


def ranking_rows(split: EncodedSplit, knowledge: Knowledge, scores: Mapping[str, Tensor]) -> list[TaskRow]:
    """Rows of a task whose scores are AUROCs; a study says nothing of an entity that its report leaves open.

    Args:
        split: of N studies.
        knowledge: of F entities.
        scores: `(N, F)` by name of the AUROC, higher where the entity is more likely.
    """
    rows, names, labels = mean_rows(split, ()), entity_names(knowledge), split.labels(knowledge).tolist()
    for name, of_all in scores.items():
        for row, of_study, facts in zip(rows, of_all.tolist(), labels, strict=True):
            judged = zip(names, of_study, facts, strict=True)
            row["rankings"][name] = {finding: [score, float(fact)] for finding, score, fact in judged if fact >= 0}
    return rows


def retrieval(split: EncodedSplit, pair_scores: Tensor | None = None) -> TaskResult:
    """Recall both ways, over the whole split and among each study's 15 closest peers, as at every validation; needs no label.

    Args:
        split: of N studies, with embeddings.
        pair_scores: `(N, N)` of each image with each report: recall by these as well.
    """
    studies, references = split.studies, split.features.references
    peers = Peers.of(references, studies.patients, studies.labels)
    ranks = {"": embedding_ranks(*split.embeddings, references, peers)}
    if pair_scores is not None:
        ranks[BY_PAIR] = pair_score_ranks(pair_scores, references, peers)
    values = (
        (row, f"{prefix}{name}{k}", "", float(rank <= k))
        for row in range(len(studies))
        for prefix, columns in ranks.items()
        for kind, rank in known_values(columns, row).items()
        for name, at in [RECALL[kind]]
        for k in at
    )
    return TaskResult(mean_rows(split, values))


def zero_shot(
    split: EncodedSplit, knowledge: Knowledge, present: Tensor, absent: Tensor, pair_scores: Tensor | None = None
) -> TaskResult:
    """AUROC of findings by the similarity of images to sentences.

    Args:
        split: of N studies, with embeddings.
        knowledge: of F entities.
        present, absent: `(F, S, D)`, the embedded sentences that state and that deny each.
        pair_scores: `(N, F)`, by how much the sentences that state an entity fit an image better than those that deny it: AUROC
            by these as well.
    """
    scores = {"zero_shot_AUROC": zero_shot_scores(split.embeddings[0], present, absent)}
    if pair_scores is not None:
        scores[f"{BY_PAIR}zero_shot_AUROC"] = pair_scores
    return TaskResult(ranking_rows(split, knowledge, scores))


def probe(
    train: EncodedSplit,
    val: EncodedSplit,
    evaluated: Sequence[EncodedSplit],
    knowledge: Knowledge,
    shares: Sequence[float],
    seed: int,
) -> list[TaskResult]:
    """AUROC of logistic regressions on the pooled features, trained on shares of the labels; what is open counts as absent.

    Args:
        train, val: what the regressions are trained and chosen on.
        evaluated: the splits that are scored, one result each.
        knowledge: of F entities.
        shares: of the training studies, in (0, 1].
        seed: of the shares, >= 0.
    """
    labelled = [
        LabelledFeatures(split.features.pooled, split.labels(knowledge) == 1) for split in (train, val, *evaluated)
    ]
    together = LabelledFeatures(*(torch.cat(columns) for columns in zip(*labelled[2:], strict=True)))
    results = linear_probe(labelled[0], labelled[1], together, shares=shares, seed=seed)
    names = [f"probe_{100 * result.share:g}%_AUROC" for result in results]
    settings = {name: {"studies": result.studies} for name, result in zip(names, results, strict=True)}
    scores = zip(*(result.scores.split([len(split.studies) for split in evaluated]) for result in results), strict=True)
    return [
        TaskResult(ranking_rows(split, knowledge, dict(zip(names, by_share, strict=True))), settings=settings)
        for split, by_share in zip(evaluated, scores, strict=True)
    ]
