"""What the phantom knows of its studies, as the tasks take it: boxes, masks, and questions with their answers."""

from collections.abc import Mapping, Sequence

import torch
from numpy.random import SeedSequence, default_rng
from torch import Tensor

from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.data.phantom.questions import Question, ask
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.encoded_split import EncodedSplit
from hardneg_plugin.evaluation.downstream.segmentation import SegmentationSplit
from hardneg_plugin.evaluation.downstream.vqa import VQABatch, answer_indices


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
    maps, boxes, owners = [], [], []
    for row in range(len(phantom)):
        for mark in phantom.marks(row):
            if mark.view == "frontal":
                finding = names.index(mark.finding.name)
                maps.append(first[row, finding])
                boxes.append(mark.box)
                owners.append((row, finding))
    if not maps:
        raise UserError("localisation: expected findings in each split, but one has none: give it more studies.")
    return torch.stack(maps), torch.tensor(boxes), owners


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
        ask(findings, default_rng(draw), phantom.normal_share)
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
