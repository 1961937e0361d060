"""The downstream tasks: from the frozen features of splits to what each study adds to the scores."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.evaluation.downstream.encoded_split import EncodedSplit
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.evaluation.downstream.head_training import HeadTraining
from hardneg_plugin.evaluation.downstream.linear_probe import LabelledFeatures, linear_probe
from hardneg_plugin.evaluation.downstream.localisation import box_iou, chance_levels, choose_threshold, pointing_game
from hardneg_plugin.evaluation.downstream.phantom_targets import boxed_maps, masked_patches, questions_of, vqa_batch
from hardneg_plugin.evaluation.downstream.segmentation import dice, predict_masks, train_segmentation
from hardneg_plugin.evaluation.downstream.task_results import (
    Means,
    TaskResult,
    add_value,
    mean_over_groups,
    mean_rows,
    ranking_rows,
)
from hardneg_plugin.evaluation.downstream.vqa import (
    UNKNOWN_ANSWER,
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

BY_PAIR = "pair_"
"""Prefix of scores that are computed from scores of pairs, not from embeddings."""


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
    means: list[Means] = [
        {
            f"{prefix}{name}{k}": {"": [float(rank <= k), 1.0]}
            for prefix, columns in ranks.items()
            for kind, rank in known_values(columns, row).items()
            for name, at in [RECALL[kind]]
            for k in at
        }
        for row in range(len(studies))
    ]
    return TaskResult(mean_rows(split, means))


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
    results = {
        f"probe_{100 * result.share:g}%_AUROC": result
        for result in linear_probe(labelled[0], labelled[1], together, shares=shares, seed=seed)
    }
    settings = {name: {"studies": result.studies} for name, result in results.items()}
    sizes = [len(split.studies) for split in evaluated]
    scores = {name: result.scores.split(sizes) for name, result in results.items()}
    return [
        TaskResult(
            ranking_rows(split, knowledge, {name: of_each[index] for name, of_each in scores.items()}),
            settings=settings,
        )
        for index, split in enumerate(evaluated)
    ]


def localisation(val: EncodedSplit, test: EncodedSplit, knowledge: Knowledge) -> TaskResult:
    """The pointing game and the overlap of each finding's map with its box, on the first view.

    Args:
        val: of the phantom, with maps: chooses the threshold of the overlap.
        test: of the phantom, with maps: is scored.
        knowledge: of the maps.
    """
    names = entity_names(knowledge)
    val_maps, val_boxes, _ = boxed_maps(val, names)
    maps, boxes, owners = boxed_maps(test, names)
    size = (test.phantom.size, test.phantom.size)
    threshold = choose_threshold(val_maps, val_boxes, size)
    hits, overlaps = pointing_game(maps, boxes, size), box_iou(maps, boxes, size, threshold)
    means: list[Means] = [{} for _ in test.studies.ids]
    for (row, finding), hit, overlap in zip(owners, hits.tolist(), overlaps.tolist(), strict=True):
        add_value(means[row], "pointing_game", names[finding], hit)
        add_value(means[row], "IoU", names[finding], overlap)
    chance = mean_over_groups([finding for _, finding in owners], chance_levels(boxes, size).tolist())
    return TaskResult(
        mean_rows(test, means),
        baselines={"pointing_game": chance, "IoU": chance},
        settings={"threshold": threshold},
    )


def segmentation(
    train: EncodedSplit,
    val: EncodedSplit,
    evaluated: Sequence[EncodedSplit],
    training: HeadTraining,
    *,
    studies: int,
    width: int,
    device: str,
) -> list[TaskResult]:
    """Dice of a light decoder on the frozen patches of the first view, and its false alarms.

    Args:
        train, val: what the decoder is trained and chosen on, of the phantom.
        evaluated: the splits that are scored, one result each.
        training: how the decoder is trained.
        studies: the decoder is trained on the masks of the first so many, >= 1.
        width: channels of the decoder, >= 1.
        device: where it is trained.
    """
    labelled = masked_patches(train, studies)
    trained = train_segmentation(
        labelled, masked_patches(val, len(val.studies)), training=training, width=width, device=device
    )
    settings = {"epoch": trained.epoch, "studies": len(labelled.patches)}
    results = []
    for split in evaluated:
        target = masked_patches(split, len(split.studies))
        predicted = predict_masks(trained.head, target.patches)
        values, is_alarm = dice(predicted, target.masks), predicted.flatten(2).any(-1)
        means: list[Means] = [{} for _ in split.studies.ids]
        for row, (of_study, alarms) in enumerate(zip(values.tolist(), is_alarm.tolist(), strict=True)):
            for name, value, alarm in zip(ATTRIBUTES, of_study, alarms, strict=True):
                if np.isnan(value):
                    add_value(means[row], "false_alarms", name, float(alarm))
                else:
                    add_value(means[row], "Dice", name, value)
        results.append(TaskResult(mean_rows(split, means), settings=settings))
    return results


def vqa(
    train: EncodedSplit,
    val: EncodedSplit,
    evaluated: Sequence[EncodedSplit],
    embedded: Mapping[str, Tensor],
    training: HeadTraining,
    *,
    seed: int,
    device: str,
) -> list[TaskResult]:
    """The share of right answers to generated questions, by kind of question.

    Args:
        train, val: what the head is trained and chosen on, of the phantom.
        evaluated: the splits that are scored, one result each.
        embedded: by the text of a question its embedding `(D_q,)`; of all that `questions_of` gives.
        training: how the head is trained.
        seed: of the questions, >= 0.
        device: where the head is trained.
    """
    splits = (train, val, *evaluated)
    by_study = [questions_of(split, seed) for split in splits]
    questions = [[question for of_study in of_split for question in of_study] for of_split in by_study]
    answers = closed_answers(question.answer for question in questions[0])
    batches = [vqa_batch(split, of_split, embedded, answers) for split, of_split in zip(splits, by_study, strict=True)]
    trained = train_vqa(batches[0], batches[1], len(answers), training=training, device=device)
    settings = {"epoch": trained.epoch, "answers": len(answers)}
    results = []
    for split, asked, batch in zip(evaluated, questions[2:], batches[2:], strict=True):
        blind = blind_answers(batches[0].answers, [q.text for q in questions[0]], [q.text for q in asked])
        is_right, is_blindly_right = (
            ((given == batch.answers) & (batch.answers != UNKNOWN_ANSWER)).tolist()
            for given in (predict_answers(trained.head, batch), blind)
        )
        means: list[Means] = [{} for _ in split.studies.ids]
        for question, row, right in zip(asked, batch.study.tolist(), is_right, strict=True):
            add_value(means[row], f"vqa_{question.kind}", question.kind, float(right))
            add_value(means[row], "vqa", question.kind, float(right))
        baselines = {
            f"vqa_{kind}": float(
                np.mean([right for q, right in zip(asked, is_blindly_right, strict=True) if q.kind == kind])
            )
            for kind in sorted({question.kind for question in asked})
        }
        baselines["vqa"] = sum(baselines.values()) / max(1, len(baselines))
        results.append(TaskResult(mean_rows(split, means), baselines=baselines, settings=settings))
    return results
