"""The downstream tasks on the phantom, which knows of its studies all that there is: boxes, masks and facts."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.random import SeedSequence, default_rng
from torch import Tensor

from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.data.phantom.questions import Question, ask
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.evaluation.downstream.frozen_features import EncodedSplit
from hardneg_plugin.evaluation.downstream.head_training import HeadTraining
from hardneg_plugin.evaluation.downstream.localisation import box_iou, chance_levels, choose_threshold, pointing_game
from hardneg_plugin.evaluation.downstream.segmentation import (
    SegmentationSplit,
    dice,
    predict_masks,
    train_segmentation,
)
from hardneg_plugin.evaluation.downstream.tasks import TaskResult, mean_rows
from hardneg_plugin.evaluation.downstream.vqa import (
    UNKNOWN_ANSWER,
    VQABatch,
    answer_indices,
    blind_answers,
    closed_answers,
    predict_answers,
    train_vqa,
)
from hardneg_plugin.knowledge import Knowledge


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
    values = (
        (row, name, names[finding], value)
        for (row, finding), *both in zip(owners, hits.tolist(), overlaps.tolist(), strict=True)
        for name, value in zip(("pointing_game", "IoU"), both, strict=True)
    )
    of_finding, shares = np.array([finding for _, finding in owners]), np.array(chance_levels(boxes, size).tolist())
    chance = float(np.mean([shares[of_finding == finding].mean() for finding in dict.fromkeys(of_finding.tolist())]))
    return TaskResult(
        mean_rows(test, values),
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
        overlaps, is_alarm = dice(predicted, target.masks), predicted.flatten(2).any(-1)
        values = (
            (row, "false_alarms", name, float(alarm)) if np.isnan(value) else (row, "Dice", name, value)
            for row, of_study in enumerate(zip(overlaps.tolist(), is_alarm.tolist(), strict=True))
            for name, value, alarm in zip(ATTRIBUTES, *of_study, strict=True)
        )
        results.append(TaskResult(mean_rows(split, values), settings=settings))
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
            ((given == batch.answers) & (batch.answers != UNKNOWN_ANSWER)).numpy()
            for given in (predict_answers(trained.head, batch), blind)
        )
        values = (
            (row, name, question.kind, float(right))
            for question, row, right in zip(asked, batch.study.tolist(), is_right, strict=True)
            for name in (f"vqa_{question.kind}", "vqa")
        )
        kinds = np.array([question.kind for question in asked])
        baselines = {
            f"vqa_{kind}": float(is_blindly_right[kinds == kind].mean()) for kind in sorted(set(kinds.tolist()))
        }
        baselines["vqa"] = sum(baselines.values()) / max(1, len(baselines))
        results.append(TaskResult(mean_rows(split, values), baselines=baselines, settings=settings))
    return results


def boxed_maps(split: EncodedSplit, names: Sequence[str]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """The map and the box of each of M findings on a first view.

    Args:
        split: of the phantom, with maps.
        names: of the F findings of the maps, in order.

    Returns:
        Maps `(M, h, w)`, boxes `(M, 4)`, and of each its study and its finding, as rows of the split and of `names`.

    Raises:
        UserError: no study has a finding.
    """
    features, phantom = split.features, split.phantom
    assert features.maps is not None
    size = features.grid[0] * features.grid[1]
    first = features.maps[:, :size].mT.unflatten(2, features.grid)  # (N, F, h, w)
    marks = [(row, mark) for row in range(len(phantom)) for mark in phantom.marks(row) if mark.view == "frontal"]
    if not marks:
        raise UserError("localisation: expected findings in each split, but one has none: give it more studies.")
    owners = [(row, names.index(mark.finding.name)) for row, mark in marks]
    return torch.stack([first[owner] for owner in owners]), torch.tensor([mark.box for _, mark in marks]), owners


def masked_patches(split: EncodedSplit, count: int) -> SegmentationSplit:
    """The patches and masks of the first views.

    Args:
        split: of the phantom, with patches.
        count: the first so many studies, or all if there are fewer.
    """
    phantom, names = split.phantom, list(ATTRIBUTES)
    count = min(count, len(phantom))
    masks = torch.zeros(count, len(names), phantom.size, phantom.size, dtype=torch.bool)
    for row in range(count):
        for mark in phantom.marks(row):
            if mark.view == "frontal":
                masks[row, names.index(mark.finding.name)] |= torch.from_numpy(mark.mask)
    return SegmentationSplit(split.features.first_view[:count].contiguous(), masks)


def questions_of(split: EncodedSplit, seed: int) -> list[list[Question]]:
    """The questions about each study of the phantom, the same for every model.

    Args:
        split: of the phantom.
        seed: draws them, >= 0.
    """
    phantom = split.phantom
    # spawned: the study that one is compared with must not be drawn from the seed that drew the study itself
    draws = (SeedSequence((seed, phantom.first + row), spawn_key=(0,)) for row in range(len(phantom)))
    return [
        ask(findings, default_rng(draw), phantom.normal_share, phantom.regime.draw)
        for findings, draw in zip(phantom.findings, draws, strict=True)
    ]


def vqa_batch(
    split: EncodedSplit,
    questions: Sequence[Sequence[Question]],
    embedded: Mapping[str, Tensor],
    answers: Sequence[str],
) -> VQABatch:
    """All questions of a split beside its patches.

    Args:
        split: of N studies, with patches.
        questions: of each study.
        embedded: by the text of a question its embedding `(D_q,)`.
        answers: the closed set.

    Raises:
        UserError: there is no question.
    """
    owners = [row for row, of_study in enumerate(questions) for _ in of_study]
    flat = [question for of_study in questions for question in of_study]
    if not flat:
        raise UserError("vqa: expected questions about each split, but one has none: give it more studies.")
    return VQABatch(
        split.features.located_patches,
        split.features.patch_mask,
        torch.stack([embedded[question.text] for question in flat]),
        torch.tensor(owners),
        answer_indices([question.answer for question in flat], answers),
    )
