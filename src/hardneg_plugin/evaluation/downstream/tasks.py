"""What each study of a split adds to the scores of a downstream task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.random import SeedSequence, default_rng
from torch import Tensor

from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.data.phantom.questions import Question, ask
from hardneg_plugin.data.phantom.studies import PhantomSplit
from hardneg_plugin.data.studies import Studies
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.finding_maps import entities_of
from hardneg_plugin.evaluation.downstream.frozen_features import Encoded
from hardneg_plugin.evaluation.downstream.head_training import Fitting
from hardneg_plugin.evaluation.downstream.linear_probe import Labelled, linear_probe
from hardneg_plugin.evaluation.downstream.localisation import box_iou, chance_levels, choose_threshold, pointing_game
from hardneg_plugin.evaluation.downstream.segmentation import Outlined, dice, predict_masks, train_segmentation
from hardneg_plugin.evaluation.downstream.vqa import (
    UNKNOWN_ANSWER,
    VQABatch,
    answer_indices,
    blind_answers,
    closed_answers,
    predict_answers,
    train_vqa,
)
from hardneg_plugin.evaluation.downstream.zero_shot import zero_shot_scores
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import RECALL
from hardneg_plugin.metrics.retrieval import embedding_ranks, pair_score_ranks
from hardneg_plugin.metrics.score_card import known_values
from hardneg_plugin.metrics.task_scores import TaskRow

BY_PAIR = "pair_"
"""What the names of scores begin with that are read off scores of pairs and not off embeddings."""


@dataclass(frozen=True)
class EncodedSplit:
    """A split of studies as a model sees it, and what is known of them."""

    studies: Studies
    encoded: Encoded

    def labels(self, knowledge: Knowledge) -> Tensor:
        """Which entities each study has, `(N, F)` as `entities_of` names them: 1, 0, or -1 where the report leaves it open."""
        rows = [row for row, prompt in enumerate(knowledge.prompts) if prompt.position is None]
        return torch.tensor([knowledge.facts(report) for report in self.studies.reports])[:, rows]

    @property
    def phantom(self) -> PhantomSplit:
        """The same, of the phantom, of which everything is known.

        Raises:
            UserError: it is another data set.
        """
        if not isinstance(self.studies, PhantomSplit):
            raise UserError("This task needs boxes, masks or facts of every finding, which only data=phantom has.")
        return self.studies


@dataclass
class TaskResult:
    """Of N studies."""

    rows: list[TaskRow]
    baselines: dict[str, float] = field(default_factory=dict)
    """What the same scores are without looking at images."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What validation chose."""


def retrieval(split: EncodedSplit, pair_scores: Tensor | None = None) -> TaskResult:
    """Recall both ways, over the whole split and among each study's 15 closest peers, as at every validation; needs no label.

    Args:
        split: with embeddings.
        pair_scores: `(N, N)` of each image with each report: recall by these as well.
    """
    studies, encoded = split.studies, split.encoded
    images, reports = _aligned(encoded)
    peers = Peers.of(encoded.references, studies.patients, studies.labels)
    ranks = {"": embedding_ranks(images, reports, encoded.references, peers)}
    if pair_scores is not None:
        ranks[BY_PAIR] = pair_score_ranks(pair_scores, encoded.references, peers)
    means = [
        {
            f"{prefix}{name}{k}": {"": [float(rank <= k), 1.0]}
            for prefix, columns in ranks.items()
            for kind, rank in known_values(columns, row).items()
            for name, at in [RECALL[kind]]
            for k in at
        }
        for row in range(len(studies))
    ]
    return TaskResult(_rows(studies.ids, means=means))


def zero_shot(
    split: EncodedSplit, knowledge: Knowledge, present: Tensor, absent: Tensor, pair_scores: Tensor | None = None
) -> TaskResult:
    """AUROC of findings by sentences alone.

    Args:
        split: with embeddings.
        knowledge: whose entities.
        present, absent: `(F, S, D)`, the embedded sentences that state and that deny each.
        pair_scores: `(N, F)`, how much better the sentences that state a finding fit an image than those that deny it: the same
            by these as well.
    """
    scores = {"": zero_shot_scores(_aligned(split.encoded)[0], present, absent)}
    if pair_scores is not None:
        scores[BY_PAIR] = pair_scores
    return TaskResult(_ranked(split, knowledge, {f"{by}zero_shot_AUROC": of_each for by, of_each in scores.items()}))


def probe(
    train: EncodedSplit,
    val: EncodedSplit,
    judged: Sequence[EncodedSplit],
    knowledge: Knowledge,
    shares: Sequence[float],
    seed: int,
) -> list[TaskResult]:
    """AUROC of logistic regressions on the pooled features, trained on shares of the labels; what is open counts as absent."""
    fit, choose, *others = (
        Labelled(part.encoded.pooled, part.labels(knowledge) == 1) for part in (train, val, *judged)
    )
    together = Labelled(*(torch.cat(columns) for columns in zip(*others, strict=True)))
    results = {
        f"probe_{100 * result.share:g}%_AUROC": result
        for result in linear_probe(fit, choose, together, shares=shares, seed=seed)
    }
    settings = {name: {"studies": result.studies} for name, result in results.items()}
    sizes = [len(part.studies) for part in judged]
    scores = {name: result.scores.split(sizes) for name, result in results.items()}
    return [
        TaskResult(_ranked(part, knowledge, {name: of_each[i] for name, of_each in scores.items()}), settings=settings)
        for i, part in enumerate(judged)
    ]


def localisation(val: EncodedSplit, test: EncodedSplit, knowledge: Knowledge) -> TaskResult:
    """Whether the model looks into each finding's box on the first view: the pointing game, and the overlap with the box."""
    names = entities_of(knowledge)
    chosen = _boxed(val, names)
    maps, boxes, owners = _boxed(test, names)
    size = (test.phantom.size, test.phantom.size)
    threshold = choose_threshold(chosen[0], chosen[1], size)
    hits, overlaps = pointing_game(maps, boxes, size), box_iou(maps, boxes, size, threshold)
    means: list[dict[str, dict[str, list[float]]]] = [{} for _ in test.studies.ids]
    for (row, finding), hit, overlap in zip(owners, hits.tolist(), overlaps.tolist(), strict=True):
        for name, value in (("pointing_game", hit), ("IoU", overlap)):
            _add(means[row], name, names[finding], value)
    chance = _mean_by([finding for _, finding in owners], chance_levels(boxes, size).tolist())
    return TaskResult(
        _rows(test.studies.ids, means=means),
        baselines={"pointing_game": chance, "IoU": chance},
        settings={"threshold": threshold},
    )


def segmentation(
    train: EncodedSplit,
    val: EncodedSplit,
    judged: Sequence[EncodedSplit],
    how: Fitting,
    *,
    studies: int,
    width: int,
    device: str,
) -> list[TaskResult]:
    """Dice of a light decoder on the frozen patches of the first view, trained on the masks of the first `studies`."""
    fit = _outlined(train, studies)
    fitted = train_segmentation(fit, _outlined(val, len(val.studies)), how=how, width=width, device=device)
    results = []
    for split in judged:
        outlined = _outlined(split, len(split.studies))
        found = predict_masks(fitted.head, outlined.patches)
        values, alarms = dice(found, outlined.masks), found.flatten(2).any(-1)
        means: list[dict[str, dict[str, list[float]]]] = [{} for _ in split.studies.ids]
        for row, (of_study, seen) in enumerate(zip(values.tolist(), alarms.tolist(), strict=True)):
            for name, value, alarm in zip(ATTRIBUTES, of_study, seen, strict=True):
                if np.isnan(value):
                    _add(means[row], "false_alarms", name, float(alarm))
                else:
                    _add(means[row], "Dice", name, value)
        settings = {"epoch": fitted.epoch, "studies": len(fit.patches)}
        results.append(TaskResult(_rows(split.studies.ids, means=means), settings=settings))
    return results


def vqa(
    train: EncodedSplit,
    val: EncodedSplit,
    judged: Sequence[EncodedSplit],
    embedded: Mapping[str, Tensor],
    how: Fitting,
    *,
    seed: int,
    device: str,
) -> list[TaskResult]:
    """The share of right answers to generated questions, by kind.

    Args:
        train, val: what the head is trained and chosen on.
        judged: what it is judged on.
        embedded: by the text of a question its embedding `(D_q,)`; of all that `questions_of` gives.
        how: how the head is trained.
        seed: of the questions.
        device: where.
    """
    splits = (train, val, *judged)
    by_study = [questions_of(split, seed) for split in splits]
    asked = [[question for of_study in of_split for question in of_study] for of_split in by_study]
    answers = closed_answers(question.answer for question in asked[0])
    fit, choose, *others = (
        _asked(split, of_split, embedded, answers) for split, of_split in zip(splits, by_study, strict=True)
    )
    fitted = train_vqa(fit, choose, len(answers), how=how, device=device)
    settings = {"epoch": fitted.epoch, "answers": len(answers)}
    results = []
    for split, questions, part in zip(judged, asked[2:], others, strict=True):
        blind = blind_answers(fit.answers, [q.text for q in asked[0]], [q.text for q in questions])
        is_right, is_blindly_right = (
            ((given == part.answers) & (part.answers != UNKNOWN_ANSWER)).tolist()
            for given in (predict_answers(fitted.head, part), blind)
        )
        means: list[dict[str, dict[str, list[float]]]] = [{} for _ in split.studies.ids]
        for question, row, right in zip(questions, part.study.tolist(), is_right, strict=True):
            _add(means[row], f"vqa_{question.kind}", question.kind, float(right))
            _add(means[row], "vqa", question.kind, float(right))
        baselines = {
            f"vqa_{kind}": _share(
                [right for q, right in zip(questions, is_blindly_right, strict=True) if q.kind == kind]
            )
            for kind in sorted({question.kind for question in questions})
        }
        baselines["vqa"] = sum(baselines.values()) / max(1, len(baselines))
        results.append(TaskResult(_rows(split.studies.ids, means=means), baselines=baselines, settings=settings))
    return results


def questions_of(split: EncodedSplit, seed: int) -> list[list[Question]]:
    """The questions about each study: the same for every model."""
    phantom = split.phantom
    # a key of its own: the study with which one is compared must not be drawn as that one was
    draws = (SeedSequence((seed, phantom.first + row), spawn_key=(0,)) for row in range(len(phantom)))
    return [
        ask(findings, default_rng(draw), phantom.normal_share)
        for findings, draw in zip(phantom.findings, draws, strict=True)
    ]


def _aligned(encoded: Encoded) -> tuple[Tensor, Tensor]:
    if encoded.images is None or encoded.reports is None:
        raise UserError(
            "This task needs a space in which texts and images meet, but this run is of the bare host: train with "
            "model=hard_negatives or model=pretrain."
        )
    return encoded.images, encoded.reports


def _boxed(split: EncodedSplit, names: Sequence[str]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """The map and the box of each finding on the first view `(M, h, w)`, `(M, 4)`, and whose each is (study, finding)."""
    encoded, phantom = split.encoded, split.phantom
    assert encoded.maps is not None
    size = encoded.grid[0] * encoded.grid[1]
    first = encoded.maps[:, :size].mT.unflatten(2, encoded.grid)  # (N, F, h, w)
    maps, boxes, owners = [], [], []
    for row in range(len(phantom)):
        for mark in phantom.marks(row):
            if mark.view == "frontal":
                finding = names.index(mark.finding.name)
                maps.append(first[row, finding])
                boxes.append(mark.box)
                owners.append((row, finding))
    if not maps:
        raise UserError("localisation: the split has no finding: let it have more studies.")
    return torch.stack(maps), torch.tensor(boxes), owners


def _outlined(split: EncodedSplit, count: int) -> Outlined:
    phantom, names = split.phantom, list(ATTRIBUTES)
    count = min(count, len(phantom))
    masks = torch.zeros(count, len(names), phantom.size, phantom.size, dtype=torch.bool)
    for row in range(count):
        for mark in phantom.marks(row):
            if mark.view == "frontal":
                masks[row, names.index(mark.finding.name)] |= torch.from_numpy(mark.mask)
    return Outlined(split.encoded.first_view[:count].contiguous(), masks)


def _asked(
    split: EncodedSplit, asked: Sequence[Sequence[Question]], embedded: Mapping[str, Tensor], answers: Sequence[str]
) -> VQABatch:
    owners = [row for row, of_study in enumerate(asked) for _ in of_study]
    flat = [question for of_study in asked for question in of_study]
    if not flat:
        raise UserError("vqa: a split has no question: let it have more studies.")
    return VQABatch(
        split.encoded.placed,
        split.encoded.patch_mask,
        torch.stack([embedded[question.text] for question in flat]),
        torch.tensor(owners),
        answer_indices([question.answer for question in flat], answers),
    )


def _ranked(split: EncodedSplit, knowledge: Knowledge, scores: Mapping[str, Tensor]) -> list[TaskRow]:
    """Rows of AUROCs, by name from scores `(N, F)`; what is unknown (-1) is left out."""
    names, labels = entities_of(knowledge), split.labels(knowledge).tolist()
    columns = {name: of_all.tolist() for name, of_all in scores.items()}
    rankings = [
        {
            name: {
                finding: [score, float(label)]
                for finding, score, label in zip(names, of_all[row], of_study, strict=True)
                if label >= 0
            }
            for name, of_all in columns.items()
        }
        for row, of_study in enumerate(labels)
    ]
    return _rows(split.studies.ids, rankings=rankings)


def _rows(ids: Iterable[str], *, means: Sequence[Any] = (), rankings: Sequence[Any] = ()) -> list[TaskRow]:
    names = list(ids)
    return [
        cast(TaskRow, {"id": name, "means": mean, "rankings": ranking})
        for name, mean, ranking in zip(
            names, means or [{} for _ in names], rankings or [{} for _ in names], strict=True
        )
    ]


def _add(means: dict[str, dict[str, list[float]]], name: str, group: str, value: float) -> None:
    total, count = means.setdefault(name, {}).get(group, (0.0, 0.0))
    means[name][group] = [total + value, count + 1.0]


def _mean_by(groups: Sequence[int], values: Sequence[float]) -> float:
    by_group: dict[int, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        by_group.setdefault(group, []).append(value)
    return float(np.mean([np.mean(of_group) for of_group in by_group.values()]))


def _share(right: Sequence[bool]) -> float:
    return sum(right) / max(1, len(right))
