"""A finished run read back: its scores, its predictions, and what its model does with the same studies again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, Subset

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.studies import Batch, Sample, SplitName, Studies
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.inspection import Inspected, inspect_split
from hardneg_plugin.files import read_json
from hardneg_plugin.knowledge import Knowledge, Prompt
from hardneg_plugin.metrics.records import PredictionRecord, read_predictions
from hardneg_plugin.models.base import move_to_device
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.runs.checkpoint import check_writes_reports, find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder

ROUNDING = 0.1
"""Share of the reports that may come out otherwise than predicted. Another device rounds otherwise, and a search takes another
turn now and then; under other weights or images nearly all of them are others."""

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""By `trainer.precision`, what predictions were computed in."""

Track = Callable[[DataLoader[Sample], str], Iterable[Batch]]
"""Goes through the batches of a run, whose name it gets, as a progress bar does."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, read and checked; nothing is built yet."""

    name: str
    folder: RunFolder
    config: DictConfig
    metrics: dict[str, Any]
    split: SplitName
    records: dict[str, PredictionRecord]
    """The predictions of the split, by study."""

    @property
    def is_host(self) -> bool:
        """Whether it was trained without hard negatives."""
        return self.config.model.get("hard_negatives") is None

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint that wrote the predictions."""
        return "best" if self.metrics.get("checkpoint") else "last"


@dataclass(frozen=True)
class InspectedRun:
    """What its model does with the studies that were predicted."""

    run: FinishedRun
    studies: Studies
    rows: dict[str, int]
    """Where each predicted study stands among `studies`, in that order."""
    inspected: dict[str, Inspected]
    """By study."""
    hardness: float | None
    """At which negatives were hardened at the end of training; None where none are."""
    is_otherwise: frozenset[str]
    """Studies whose report came out otherwise than predicted, so that its attention is not that of the predicted one."""
    knows_facts: bool
    """Whether it is known what the reports state of the entities that the model looks for."""

    @property
    def looks_for_entities(self) -> bool:
        """Whether the model says which entities it finds."""
        return any(study.entities is not None for study in self.inspected.values())


def finished_run(name: str, folder: RunFolder, split: SplitName, *, trust: bool = False) -> FinishedRun:
    """Read what a run left.

    Raises:
        UserError: it is not finished, has no predictions of the split, or a file of it cannot be read or trusted.
    """
    config = folder.read_config(trust=trust)
    check_writes_reports(config.model, folder)
    if not folder.metrics.is_file():
        raise UserError(
            f"Expected a finished run, but {folder.path} holds no metrics.json yet: hardneg-train resume={folder.path} goes on "
            "with it."
        )
    metrics = read_json(folder.metrics, "scores")
    if not isinstance(metrics, dict) or not isinstance(metrics.get(split), dict):
        raise UserError(f"Expected the scores of the {split} split in {folder.metrics}, but they are not there.")
    file = folder.predictions(split)
    if not file.is_file():
        raise UserError(f"Expected the predictions of the {split} split in {file}, but there is no such file.")
    records = {record["id"]: record for record in read_predictions(file)}
    return FinishedRun(name, folder, config, metrics, split, records)


def inspect_run(
    run: FinishedRun, *, data: DictConfig | None = None, device: str | None = None, trust: bool = False, track: Track
) -> InspectedRun:
    """Let the model of a run read its studies once more.

    Args:
        run: the run.
        data: a config of other data than the run's own, such as the same in another place.
        device: where to run; None: a GPU where there is one.
        trust: build whatever the run's config names.
        track: goes through the batches.

    Raises:
        UserError: the data are not there or not those that were predicted, or the model cannot be built or writes other reports.
    """
    decoding: Decoding = instantiate(run.config.decoding)
    model = _model(run, decoding, device, trust)
    module: StudyDataModule = instantiate((data or run.config.data).datamodule)
    module.tokenizer = model.tokenizer
    studies = module.source.split(run.split)
    rows = _rows(run, studies, model)
    places = list(rows.values())
    groups = groups_of(
        [studies.reports[place] for place in places],
        [studies.patients[place] for place in places],
        [studies.labels[place] for place in places],
    )
    whole = module.in_order(run.split)
    loader: DataLoader[Sample] = DataLoader(
        Subset(cast(Dataset[Sample], studies), places),
        batch_size=whole.batch_size,
        collate_fn=whole.collate_fn,
        num_workers=whole.num_workers,
        generator=torch.Generator(),
    )
    hardness = _final_hardness(model, run)
    stated = _stated(run, data, studies, places, model)
    dtype = AUTOCAST.get(str(OmegaConf.select(run.config, "trainer.precision")))
    with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
        inspected = inspect_split(
            model,
            track(loader, run.name),
            decoding=decoding,
            groups=groups,
            hardness=hardness or 0.0,
            stated=stated,
        )
    found = {study.id: study for study in inspected}
    otherwise = frozenset(study for study, own in found.items() if own.text != run.records[study]["generated"])
    if not decoding.sample:
        _check_same(run, found, otherwise)
    return InspectedRun(run, studies, rows, found, hardness, otherwise, bool(stated))


def _model(run: FinishedRun, decoding: Decoding, device: str | None, trust: bool) -> ReportGenerator:
    # without what only scores need, which may want files or programs of their own
    config = OmegaConf.create({**run.config.model, "caption": None, "compile": False})
    path = find_checkpoint(run.folder, run.checkpoint)
    model = load_trained_model(config, path, trust=trust, decoding=decoding, read_findings=None)
    if not isinstance(model, ReportGenerator):
        raise UserError(f"{run.folder.path}: expected the run of a ReportGenerator, but got a {type(model).__name__}.")
    return move_to_device(model, device)


def _rows(run: FinishedRun, studies: Studies, model: ReportGenerator) -> dict[str, int]:
    """Where the predicted studies stand in the data, which must be what they were."""
    rows = {study: row for row, study in enumerate(studies.ids) if study in run.records}
    file = run.folder.predictions(run.split)
    for study, record in run.records.items():
        if study not in rows:
            raise UserError(
                f"{file} has the study {study!r}, but the {run.split} split of the data does not: the data are others than those "
                "of the run. Set data=... to those."
            )
        reference = " ".join(model.tokenizer.clean(studies.reports[rows[study]]).split())
        if reference != record["reference"]:
            raise UserError(
                f"{file}: the reference of the study {study!r} is {record['reference'][:80]!r}..., but in the data it is "
                f"{reference[:80]!r}...: the data have changed since. Set data=... to those of the run."
            )
    return rows


def _stated(
    run: FinishedRun, data: DictConfig | None, studies: Studies, places: list[int], model: ReportGenerator
) -> dict[str, dict[Prompt, int]]:
    """By study what its report says of each prompt, for a model that asks; empty where the data do not tell how to read it."""
    config = (data or run.config.data).get("knowledge")
    if config is None or not isinstance(model.visual, GroundedVisual):
        return {}
    knowledge: Knowledge = instantiate(config)
    return {
        studies.ids[place]: dict(zip(knowledge.prompts, knowledge.facts(studies.reports[place]), strict=True))
        for place in places
    }


def _final_hardness(model: ReportGenerator, run: FinishedRun) -> float | None:
    """What the schedule gives at the end of training: its last step, its last epoch (which count from 0), and all of it done."""
    if not isinstance(model, HardNegativeReportGenerator) or model.hard_negatives.hardening is None:
        return None
    trained = run.metrics.get("training") or {}
    steps, epochs = trained.get("steps", 0), trained.get("epochs", 0)
    end = TrainingProgress(step=max(steps - 1, 0), epoch=max(epochs - 1, 0), fraction=1.0)
    return float(model.hard_negatives.schedule(end))


def _check_same(run: FinishedRun, inspected: dict[str, Inspected], otherwise: frozenset[str]) -> None:
    if len(otherwise) <= ROUNDING * len(inspected):
        return
    study = min(otherwise)
    raise UserError(
        f"{run.folder.path}: {len(otherwise)} of {len(inspected)} reports come out otherwise than in its predictions, such as "
        f"{study!r}: {inspected[study].text[:80]!r}... for {run.records[study]['generated'][:80]!r}... The checkpoint or the "
        "images have changed since: bring back those of the training, or run where it ran (device=...)."
    )
