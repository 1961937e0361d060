"""The downstream tasks of one run: what each needs of its splits, and which the model and the data allow."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hardneg_plugin.backbones.decoder import evaluating
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.phantom.studies import PhantomSplit
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream import phantom_tasks, tasks
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.evaluation.downstream.frozen_features import EncodedSplit, Model, encode, text_features
from hardneg_plugin.evaluation.downstream.head_training import HeadTraining
from hardneg_plugin.evaluation.downstream.pair_scorer import PairScorer
from hardneg_plugin.evaluation.downstream.tasks import TaskResult
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.models.aligned import AlignedModel

OF_ALIGNMENT = {"retrieval", "zero_shot", "localisation"}
OF_KNOWLEDGE = {"zero_shot", "linear_probe", "localisation"}
OF_PHANTOM = {"localisation", "segmentation", "vqa"}
OF_PAIRS = {"retrieval", "zero_shot"}
OF_PATCHES = {"segmentation", "vqa"}


@dataclass
class TaskInputs:
    """The model and the data of a run; splits are encoded when first used.

    Args:
        model: frozen, on its device.
        data: with the model's tokenizer.
        known: the findings that a study may have; None where the data do not name them.
        wanted: names of `TASKS`.
        names: of the splits that are scored.
        seed: of subsets, heads and questions, >= 0.
        shares: of the training labels that linear probes see, each in (0, 1].
        segmentation, vqa: how their heads are trained.
        segmentation_studies: the decoder is trained on the masks of the first so many, >= 1.
        segmentation_width: channels of the decoder, >= 1.
        track: iterates over the steps of a named part of the work.

    Raises:
        UserError: the model or the data do not allow a task.
    """

    model: Model
    data: StudyDataModule
    known: Knowledge | None
    wanted: Sequence[str]
    names: Sequence[SplitName]
    seed: int
    shares: Sequence[float]
    segmentation: HeadTraining
    segmentation_studies: int
    segmentation_width: int
    vqa: HeadTraining
    track: Callable[[Iterable[Any], str], Iterable[Any]]

    def __post_init__(self) -> None:
        if not isinstance(self.model, AlignedModel):
            grounded = {"localisation"} if isinstance(self.model.visual, GroundedVisual) else set()
            self._refuse(
                OF_ALIGNMENT - grounded,
                "needs a space that texts and images share, but this run is of the bare host: train with model=hard_negatives or "
                "model=pretrain",
            )
        if self.known is None:
            self._refuse(
                OF_KNOWLEDGE,
                "needs data.knowledge, which the data do not have: add data=... with one, as in conf/data/annotations.yaml",
            )
        if not isinstance(self.data.source.split(self.names[0]), PhantomSplit):
            self._refuse(OF_PHANTOM, "needs boxes, masks or facts of every finding, which only data=phantom has")
        self.pair_scorer = PairScorer.of(self.model)
        self._splits: dict[SplitName, EncodedSplit] = {}

    @property
    def knowledge(self) -> Knowledge:
        """The findings that a study may have."""
        assert self.known is not None
        return self.known

    @property
    def device(self) -> str:
        """Of the model."""
        return str(self.model.device)

    @property
    def trained_on(self) -> tuple[EncodedSplit, EncodedSplit]:
        """What heads are trained and chosen on."""
        return self.split("train"), self.split("val")

    @property
    def scored(self) -> list[EncodedSplit]:
        """The splits that are scored."""
        return [self.split(name) for name in self.names]

    def split(self, name: SplitName) -> EncodedSplit:
        """A split, with patches, words and a map for each finding as far as a task needs them."""
        if name not in self._splits:
            maps = "localisation" in self.wanted and name != "train"
            pairs = name in self.names and not OF_PAIRS.isdisjoint(self.wanted)
            features = encode(
                self.model,
                self.track(self.data.in_order(name), f"encoding {name}"),
                device=self.device,
                maps_of=self.knowledge if maps else None,
                patches=not OF_PATCHES.isdisjoint(self.wanted),
                pair_scorer=self.pair_scorer if pairs else None,
            )
            self._splits[name] = EncodedSplit(self.data.source.split(name), features)
        return self._splits[name]

    def _refuse(self, tasks: set[str], reason: str) -> None:
        if impossible := [name for name in self.wanted if name in tasks]:
            left = [name for name in self.wanted if name not in tasks]
            instead = f", or leave it at tasks=[{','.join(left)}]" if left else ""
            raise UserError(f"tasks=[{','.join(impossible)}] {reason}{instead}.")


def _retrieval(inputs: TaskInputs) -> list[TaskResult]:
    results, by_pair = [], None
    with evaluating(inputs.model):
        for split in inputs.scored:
            if inputs.pair_scorer is not None:
                sides = split.features.pair_sides
                by_pair = inputs.pair_scorer.scores(*sides, track=lambda steps: inputs.track(steps, "scoring pairs"))
            results.append(tasks.retrieval(split, by_pair))
    return results


def _zero_shot(inputs: TaskInputs) -> list[TaskResult]:
    model, pair_scorer, wordings = inputs.model, inputs.pair_scorer, inputs.knowledge.wordings()
    assert isinstance(model, AlignedModel)
    sentences = [wordings[name] for name in entity_names(inputs.knowledge)]
    results, by_pair = [], None
    with evaluating(model), torch.no_grad():
        present, absent = (torch.stack([model.embed_texts(pair[side]) for pair in sentences]).cpu() for side in (0, 1))
        for split in inputs.scored:
            if pair_scorer is not None:
                by_pair = pair_scorer.scores_of_sentences(split.features.pair_sides[0], sentences)
            results.append(tasks.zero_shot(split, inputs.knowledge, present, absent, by_pair))
    return results


def _linear_probe(inputs: TaskInputs) -> list[TaskResult]:
    return tasks.probe(*inputs.trained_on, inputs.scored, inputs.knowledge, inputs.shares, inputs.seed)


def _localisation(inputs: TaskInputs) -> list[TaskResult]:
    return [phantom_tasks.localisation(inputs.split("val"), split, inputs.knowledge) for split in inputs.scored]


def _segmentation(inputs: TaskInputs) -> list[TaskResult]:
    return phantom_tasks.segmentation(
        *inputs.trained_on,
        inputs.scored,
        inputs.segmentation,
        studies=inputs.segmentation_studies,
        width=inputs.segmentation_width,
        device=inputs.device,
    )


def _vqa(inputs: TaskInputs) -> list[TaskResult]:
    train, val, scored, seed = *inputs.trained_on, inputs.scored, inputs.seed
    by_study = [of_study for split in (train, val, *scored) for of_study in phantom_tasks.questions_of(split, seed)]
    texts = sorted({question.text for of_study in by_study for question in of_study})
    embedded = dict(zip(texts, text_features(inputs.model, texts), strict=True))
    return phantom_tasks.vqa(train, val, scored, embedded, inputs.vqa, seed=seed, device=inputs.device)


TASKS: dict[str, Callable[[TaskInputs], list[TaskResult]]] = {
    "retrieval": _retrieval,
    "zero_shot": _zero_shot,
    "linear_probe": _linear_probe,
    "localisation": _localisation,
    "segmentation": _segmentation,
    "vqa": _vqa,
}
"""Each returns a result per scored split; heads are trained once."""
