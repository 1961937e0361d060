"""hardneg-tasks: what the frozen features of a trained model are worth, by downstream tasks."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.table import Table

from hardneg_plugin.apps.shared.console import console, progress
from hardneg_plugin.apps.shared.hydra_command import run_command
from hardneg_plugin.backbones.decoder import evaluating
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.phantom.studies import PhantomSplit
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream import tasks
from hardneg_plugin.evaluation.downstream.encoded_split import EncodedSplit
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.evaluation.downstream.frozen_features import Model, encode, text_features
from hardneg_plugin.evaluation.downstream.pair_scorer import PairScorer
from hardneg_plugin.evaluation.downstream.phantom_targets import questions_of
from hardneg_plugin.evaluation.downstream.task_results import TaskResult
from hardneg_plugin.files import write_json, write_jsonl
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.metrics.task_scores import task_card
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import move_to_device
from hardneg_plugin.runs.checkpoint import find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder


def main() -> None:
    """Entry point of hardneg-tasks."""
    run_command("tasks", start, path="run")


class Inputs:
    """The model and the data of a run; splits are encoded when first used."""

    def __init__(self, config: DictConfig, wanted: Sequence[str]) -> None:
        self.config, self.wanted = config, wanted
        self.run = RunFolder.existing(config.run)
        trained = self.run.read_config(trust=config.trust)
        self.checkpoint = find_checkpoint(self.run, config.checkpoint)
        self._data = config.data if "data" in config else trained.data
        self.data: StudyDataModule = instantiate(self._data.datamodule)
        model = {**trained.model, **({"caption": None} if "caption" in trained.model else {}), "compile": False}
        self.model: Model = move_to_device(
            load_trained_model(DictConfig(model), self.checkpoint, trust=config.trust), config.device
        )
        self.data.tokenizer = self.model.tokenizer
        self.device = str(self.model.device)
        self.names: list[SplitName] = _as_list(config.split)
        """Of the splits that are scored."""
        self._splits: dict[SplitName, EncodedSplit] = {}

    @property
    def has_knowledge(self) -> bool:
        """Whether the data name the findings that their studies may have."""
        return self._data.get("knowledge") is not None

    @cached_property
    def knowledge(self) -> Knowledge:
        """The findings that a study may have."""
        knowledge: Knowledge = instantiate(self._data.knowledge)
        return knowledge

    @cached_property
    def pair_scorer(self) -> PairScorer | None:
        """What scores pairs, where the model matches words with regions."""
        return PairScorer.of(self.model)

    @property
    def judged(self) -> list[EncodedSplit]:
        """The splits that are scored."""
        return [self.split(name) for name in self.names]

    def split(self, name: SplitName) -> EncodedSplit:
        """A split, with patches, words and a map for each finding as far as a task needs them."""
        if name not in self._splits:
            maps = "localisation" in self.wanted and name != "train"
            matches = name in self.names and not OF_PAIRS.isdisjoint(self.wanted)
            encoded = encode(
                self.model,
                progress(self.data.in_order(name), f"looking at {name}"),
                device=self.device,
                maps_of=self.knowledge if maps else None,
                patches=not OF_PATCHES.isdisjoint(self.wanted),
                pair_scorer=self.pair_scorer if matches else None,
            )
            self._splits[name] = EncodedSplit(self.data.source.split(name), encoded)
        return self._splits[name]


def retrieval(inputs: Inputs) -> list[TaskResult]:
    """Recall both ways."""

    def of_split(split: EncodedSplit) -> TaskResult:
        if inputs.pair_scorer is None:
            return tasks.retrieval(split)
        with evaluating(inputs.model):
            scores = inputs.pair_scorer.scores(
                *split.features.pair_sides, track=lambda steps: progress(steps, "scoring pairs")
            )
        return tasks.retrieval(split, scores)

    return [of_split(split) for split in inputs.judged]


def zero_shot(inputs: Inputs) -> list[TaskResult]:
    """Findings by the similarity of images to sentences."""
    model, pair_scorer, wordings = inputs.model, inputs.pair_scorer, inputs.knowledge.wordings()
    assert isinstance(model, AlignedModel)
    sentences = [wordings[name] for name in entity_names(inputs.knowledge)]
    with evaluating(model), torch.no_grad():
        present, absent = (torch.stack([model.embed_texts(pair[side]) for pair in sentences]).cpu() for side in (0, 1))
        scores = [
            None if pair_scorer is None else pair_scorer.scores_of_sentences(split.features.pair_sides[0], sentences)
            for split in inputs.judged
        ]
    return [
        tasks.zero_shot(split, inputs.knowledge, present, absent, by_pair)
        for split, by_pair in zip(inputs.judged, scores, strict=True)
    ]


def linear_probe(inputs: Inputs) -> list[TaskResult]:
    """Logistic regressions on pooled features."""
    train, val = (inputs.split(name) for name in ("train", "val"))
    return tasks.probe(train, val, inputs.judged, inputs.knowledge, inputs.config.shares, inputs.config.seed)


def localisation(inputs: Inputs) -> list[TaskResult]:
    """Where the model looks for a finding."""
    return [tasks.localisation(inputs.split("val"), split, inputs.knowledge) for split in inputs.judged]


def segmentation(inputs: Inputs) -> list[TaskResult]:
    """Masks by a light decoder."""
    train, val = (inputs.split(name) for name in ("train", "val"))
    settings = inputs.config.segmentation
    how = instantiate(settings.training)
    return tasks.segmentation(
        train, val, inputs.judged, how, studies=settings.studies, width=settings.width, device=inputs.device
    )


def vqa(inputs: Inputs) -> list[TaskResult]:
    """Questions about findings, sides, sizes and places."""
    train, val, judged = inputs.split("train"), inputs.split("val"), inputs.judged
    seed = inputs.config.seed
    splits = (train, val, *judged)
    texts = sorted({q.text for split in splits for of_study in questions_of(split, seed) for q in of_study})
    embedded = dict(zip(texts, text_features(inputs.model, texts), strict=True))
    return tasks.vqa(train, val, judged, embedded, instantiate(inputs.config.vqa), seed=seed, device=inputs.device)


TASKS: dict[str, Callable[[Inputs], list[TaskResult]]] = {
    "retrieval": retrieval,
    "zero_shot": zero_shot,
    "linear_probe": linear_probe,
    "localisation": localisation,
    "segmentation": segmentation,
    "vqa": vqa,
}
"""Each returns a result per scored split; heads are trained once."""


OF_ALIGNMENT = {"retrieval", "zero_shot", "localisation"}
OF_KNOWLEDGE = {"zero_shot", "linear_probe", "localisation"}
OF_PHANTOM = {"localisation", "segmentation", "vqa"}
OF_PAIRS = {"retrieval", "zero_shot"}
OF_PATCHES = {"segmentation", "vqa"}
# whose settings of a `HeadTraining` are positive integers
HEADS = ("segmentation.training", "vqa")
WHOLE = ("epochs", "batch_size")


def start(config: DictConfig) -> None:
    """Do the tasks; each writes its scores, and per study what they are made of, into `tasks/` of the run.

    Raises:
        UserError: for any error that a user can cause, before the first task begins.
    """
    wanted = _wanted(config.tasks)
    _check(config)
    inputs = Inputs(config, wanted)
    _check_possible(inputs)
    for name in wanted:
        for split, result in zip(inputs.names, TASKS[name](inputs), strict=True):
            card = task_card(result.rows)
            intervals = card.intervals()
            scores, rows = (inputs.run.tasks / f"{name}_{split}.{suffix}" for suffix in ("json", "jsonl"))
            write_jsonl(rows, result.rows)
            write_json(
                scores,
                {
                    "scores": card.values,
                    "intervals": {score: list(ends) for score, ends in intervals.items()},
                    "baselines": result.baselines,
                    "chosen": result.settings,
                    "checkpoint": str(inputs.checkpoint),
                    "data": OmegaConf.to_container(config.data, resolve=True) if "data" in config else "the run's own",
                    "seed": config.seed,
                    "studies": len(result.rows),
                },
            )
            _show(f"{name} on the {split} split of {config.run}", card.values, intervals, result.baselines)
            print(f"scores   {scores}\nstudies  {rows}\n")


def _wanted(named: Any) -> list[str]:
    """The tasks, each once."""
    wanted = _as_list(named)
    wanted = list(TASKS) if wanted == ["all"] else list(dict.fromkeys(map(str, wanted)))
    wrong = [name for name in wanted if name not in TASKS]
    if wrong or not wanted:
        raise UserError(
            f"tasks: expected all or some of {', '.join(TASKS)}, but got {repr(wrong[0]) if wrong else 'none'}."
        )
    return wanted


def _as_list(named: Any) -> list[Any]:
    return list(named) if isinstance(named, ListConfig) else [named]


def _check(config: DictConfig) -> None:
    """Raise a UserError for settings out of their range."""
    if _as_list(config.split) not in (["val"], ["test"], ["val", "test"], ["test", "val"]):
        raise UserError(f"split: expected val, test, or both as [val,test], but got {config.split!r}.")
    if type(config.seed) is not int or config.seed < 0:
        raise UserError(f"seed: expected an integer >= 0, but got {config.seed!r}.")
    for key in ("segmentation.studies", "segmentation.width", *(f"{part}.{key}" for part in HEADS for key in WHOLE)):
        value = OmegaConf.select(config, key)
        if type(value) is not int or value < 1:
            raise UserError(f"{key}: expected a positive integer, but got {value!r}.")
    shares = config.shares
    if not isinstance(shares, ListConfig) or not shares or not all(type(share) in (int, float) for share in shares):
        raise UserError(f"shares: expected shares of the training labels, such as [0.1,1.0], but got {shares!r}.")


def _check_possible(inputs: Inputs) -> None:
    """Raise a UserError for a task that the model or the data do not allow."""
    wanted, needs = inputs.wanted, set[str]()
    if not isinstance(inputs.model, AlignedModel):
        needs = OF_ALIGNMENT - ({"localisation"} if isinstance(inputs.model.visual, GroundedVisual) else set())
    _refuse(
        [name for name in wanted if name in needs],
        wanted,
        "needs a space in which texts and images meet, but this run is of the bare host: train with model=hard_negatives or "
        "model=pretrain",
    )
    if not inputs.has_knowledge:
        _refuse(
            [name for name in wanted if name in OF_KNOWLEDGE],
            wanted,
            f"needs data.knowledge, which the data of {inputs.run.path} do not have: add data=... with one, as in "
            "conf/data/annotations.yaml",
        )
    if not isinstance(inputs.data.source.split(inputs.names[0]), PhantomSplit):
        _refuse(
            [name for name in wanted if name in OF_PHANTOM],
            wanted,
            "needs boxes, masks or facts of every finding, which only data=phantom has",
        )


def _refuse(impossible: list[str], wanted: Sequence[str], reason: str) -> None:
    if impossible:
        left = [name for name in wanted if name not in impossible]
        instead = f", or leave it at tasks=[{','.join(left)}]" if left else ""
        raise UserError(f"tasks=[{','.join(impossible)}] {reason}{instead}.")


def _show(
    title: str, values: dict[str, float], intervals: dict[str, tuple[float, float]], baselines: dict[str, float]
) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("", "score", "95 % interval", "without looking"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name, value in values.items():
        low, high = intervals[name]
        blind = f"{baselines[name]:.3f}" if name in baselines else "-"
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", blind)
    console(at_least=160).print(table)


if __name__ == "__main__":
    main()
