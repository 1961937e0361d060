"""hardneg-evaluate task=NAME: what a trained model's frozen features are worth."""

from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.studies import Split as SplitName
from hardneg_plugin.downstream import tasks
from hardneg_plugin.downstream.encoded import Model, encode, text_features
from hardneg_plugin.downstream.tasks import Split, TaskResult
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.runs.checkpoint import checkpoint_of, trained_model
from hardneg_plugin.runs.run_folder import RunFolder, write_json, write_jsonl
from hardneg_plugin.scoring.task_scores import task_card


class Inputs:
    """The model and the data of a run, and its splits as the model sees them, each made when first asked for."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        run = RunFolder.existing(config.run)
        trained = run.read_config(trust=config.trust)
        self.checkpoint = checkpoint_of(run, config.checkpoint)
        self.data: StudyDataModule = instantiate((config.data if "data" in config else trained.data).datamodule)
        if "knowledge" not in trained.data:
            raise UserError(f"{run.config}: data.knowledge is missing: add one, as conf/data/phantom.yaml has.")
        knowledge = (config.data if "data" in config else trained.data).knowledge
        self.knowledge: Knowledge = instantiate(knowledge)
        model = {**trained.model, **({"caption": None} if "caption" in trained.model else {}), "compile": False}
        self.model: Model = trained_model(DictConfig(model), self.checkpoint, trust=config.trust)
        self.data.tokenizer = self.model.tokenizer
        self.device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.judged: SplitName = config.split

    def split(self, name: SplitName, *, maps: bool = False, patches: bool = True) -> Split:
        """A split, and with `maps` where the model looks for each finding."""
        encoded = encode(
            self.model,
            self.data.in_order(name),
            device=self.device,
            maps_of=self.knowledge if maps else None,
            patches=patches,
        )
        return Split(self.data.source.split(name), encoded)


def retrieval(inputs: Inputs) -> TaskResult:
    """Recall both ways."""
    return tasks.retrieval(inputs.split(inputs.judged, patches=False))


def zero_shot(inputs: Inputs) -> TaskResult:
    """Findings by sentences alone."""
    split = inputs.split(inputs.judged, patches=False)
    model: Any = inputs.model
    if not hasattr(model, "embed_texts"):
        raise UserError(
            "task=zero_shot needs a model that aligns texts with images, but this run is of the bare host: train with "
            "model=hard_negatives or model=pretrain."
        )
    wordings = inputs.knowledge.wordings()
    model.eval()
    with torch.no_grad():
        present, absent = (
            torch.stack([model.embed_texts(pair[side]) for pair in wordings.values()]).cpu() for side in (0, 1)
        )
    return tasks.zero_shot(split, inputs.knowledge, present, absent)


def linear_probe(inputs: Inputs) -> TaskResult:
    """Logistic regressions on pooled features."""
    train, val, judged = (inputs.split(name, patches=False) for name in ("train", "val", inputs.judged))
    return tasks.probe(train, val, judged, inputs.knowledge, inputs.config.shares, inputs.config.seed)


def localisation(inputs: Inputs) -> TaskResult:
    """Where the model looks for a finding."""
    return tasks.localisation(inputs.split("val", maps=True), inputs.split(inputs.judged, maps=True), inputs.knowledge)


def segmentation(inputs: Inputs) -> TaskResult:
    """Masks by a light decoder."""
    train, val, judged = (inputs.split(name) for name in ("train", "val", inputs.judged))
    settings = inputs.config.segmentation
    how = instantiate(settings.fitting)
    return tasks.segmentation(
        train, val, judged, how, studies=settings.studies, width=settings.width, device=inputs.device
    )


def vqa(inputs: Inputs) -> TaskResult:
    """Questions about findings, sides, sizes and places."""
    splits = {"train": inputs.split("train"), "val": inputs.split("val"), "test": inputs.split(inputs.judged)}
    seed = inputs.config.seed
    texts = sorted(
        {q.text for split in splits.values() for of_study in tasks.questions_of(split, seed) for q in of_study}
    )
    embedded = dict(zip(texts, text_features(inputs.model, texts), strict=True))
    return tasks.vqa(splits, embedded, instantiate(inputs.config.vqa), seed=seed, device=inputs.device)


TASKS: dict[str, Callable[[Inputs], TaskResult]] = {
    "retrieval": retrieval,
    "zero_shot": zero_shot,
    "linear_probe": linear_probe,
    "localisation": localisation,
    "segmentation": segmentation,
    "vqa": vqa,
}


def start(config: DictConfig) -> None:
    """Do one task or several; each writes its scores and what every study adds to them into the run's `tasks/`.

    Raises:
        UserError: for whatever a user can cause.
    """
    wanted = [config.task] if isinstance(config.task, str) else list(config.task)
    wanted = list(TASKS) if wanted == ["all"] else wanted
    for name in wanted:
        if name not in TASKS:
            raise UserError(f"task: expected all or some of {', '.join(TASKS)}, but got {name!r}.")
    if config.split not in ("val", "test"):
        raise UserError(f"split: expected val or test, but got {config.split!r}.")
    inputs = Inputs(config)
    for name in wanted:
        result = TASKS[name](inputs)
        card = task_card(result.rows)
        folder = RunFolder(config.run).tasks
        scores, rows = folder / f"{name}_{config.split}.json", folder / f"{name}_{config.split}.jsonl"
        write_jsonl(rows, result.rows)
        write_json(
            scores,
            {
                "scores": card.values,
                "intervals": {score: list(ends) for score, ends in card.intervals().items()},
                "baselines": result.baselines,
                "chosen": result.settings,
                "checkpoint": str(inputs.checkpoint),
                "studies": len(result.rows),
            },
        )
        _show(f"{name} on the {config.split} split of {config.run}", card.values, card.intervals(), result.baselines)
        print(f"scores   {scores}\nstudies  {rows}\n")


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
    Console().print(table)
