"""The model of a finished run, on some of the studies that it was scored on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset, Subset

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.data.studies import Batch, Sample
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.finished_runs import FinishedRun
from hardneg_plugin.evaluation.inspected_study import InspectedStudy, finding_verdicts
from hardneg_plugin.evaluation.inspection import inspect_split
from hardneg_plugin.knowledge import Knowledge, Prompt
from hardneg_plugin.metrics.records import PredictionRecord
from hardneg_plugin.models.base import move_to_device
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.runs.checkpoint import find_checkpoint, load_trained_model

ROUNDING = 0.1
"""The share of the reports, or one of them, that may differ from the predictions. Another device rounds differently, and now and
then a search takes another turn; under other weights or images nearly all reports differ."""

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""By `trainer.precision`, what predictions were computed in."""

Track = Callable[[DataLoader[Sample], str], Iterable[Batch]]
"""Iterates over batches under a name, as a progress bar does."""


@dataclass(frozen=True)
class InspectedRun:
    """What the model of a run made of some studies."""

    run: FinishedRun
    studies: dict[str, InspectedStudy]
    """By study, with the predicted report."""
    hardness: float | None
    """At which negatives were hardened at the end of training; None where none are."""
    differing: frozenset[str]
    """Studies whose report differs from the predicted one, so that its attention is not known."""
    gives_attention: bool
    """Whether the decoder gives any."""
    knows_facts: bool
    """Whether it is known what the reports state of the entities that the model looks for."""


def inspect_run(
    run: FinishedRun, shown: Sequence[str], *, device: str | None = None, trust: bool = False, track: Track
) -> InspectedRun:
    """Inspect some of the predicted studies with the model of their run.

    Args:
        run: the run.
        shown: at least one study; hard negatives are chosen from all predicted ones.
        device: where to run; None: a GPU where there is one.
        trust: build whatever the run's config names.
        track: iterates over the batches.

    Raises:
        UserError: the data have changed, or the model cannot be built or generates other reports than predicted.
    """
    decoding: Decoding = instantiate(run.config.decoding)
    model = _model(run, decoding, device, trust)
    _check_references(run, model.tokenizer)
    run.data.tokenizer = model.tokenizer
    rows = run.rows.values()
    groups = groups_of(
        [run.studies.reports[row] for row in rows],
        [run.studies.patients[row] for row in rows],
        [run.studies.labels[row] for row in rows],
    )
    others = [study for study in run.rows if study not in set(shown)]
    hardness = _final_hardness(model, run)
    stated = _stated(run, shown, model)
    dtype = AUTOCAST.get(str(OmegaConf.select(run.config, "trainer.precision")))
    with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
        inspected = inspect_split(
            model,
            track(_loader(run, shown), run.name),
            track(_loader(run, others), f"{run.name}: possible hard negatives"),
            references={study: run.records[study]["reference"] for study in run.rows},
            groups=groups,
            decoding=decoding,
            hardness=hardness or 0.0,
            stated=stated,
        )
    differing = frozenset(name for name, study in inspected.items() if study.text != run.records[name]["generated"])
    if not decoding.sample and len(differing) > max(1, ROUNDING * len(inspected)):
        study = min(differing)
        raise UserError(
            f"{run.folder.path}: {len(differing)} of {len(inspected)} reports differ from its predictions, such as {study!r}: "
            f"{inspected[study].text[:80]!r}... for {run.records[study]['generated'][:80]!r}... The checkpoint or the images have "
            "changed since: restore those of the training, or run where it ran (device=...)."
        )
    studies = {
        name: _as_predicted(replace(study, attention=None) if name in differing else study, run.records[name])
        for name, study in inspected.items()
    }
    gives_attention = any(study.attention is not None for study in inspected.values())
    return InspectedRun(run, studies, hardness, differing, gives_attention, bool(stated))


def _model(run: FinishedRun, decoding: Decoding, device: str | None, trust: bool) -> ReportGenerator:
    # without what only scores need, which may require files or programs
    config = OmegaConf.create({**run.config.model, "caption": None, "compile": False})
    path = find_checkpoint(run.folder, run.checkpoint)
    model = load_trained_model(config, path, trust=trust, decoding=decoding, read_findings=None)
    if not isinstance(model, ReportGenerator):
        raise UserError(f"{run.folder.path}: expected the run of a ReportGenerator, but got a {type(model).__name__}.")
    return move_to_device(model, device)


def _loader(run: FinishedRun, studies: Sequence[str]) -> DataLoader[Sample]:
    whole = run.data.in_order(run.split)
    return DataLoader(
        Subset(cast(Dataset[Sample], run.studies), [run.rows[study] for study in studies]),
        batch_size=whole.batch_size,
        collate_fn=whole.collate_fn,
        num_workers=whole.num_workers,
        generator=torch.Generator(),
    )


def _check_references(run: FinishedRun, tokenizer: Tokenizer) -> None:
    for study, row in run.rows.items():
        reference = " ".join(tokenizer.clean(run.studies.reports[row]).split())
        predicted = run.records[study]["reference"]
        if reference != predicted:
            raise UserError(
                f"{run.folder.predictions(run.split)}: the reference of the study {study!r} is {predicted[:80]!r}..., but in the "
                f"data it is {reference[:80]!r}...: the data have changed since. Set data=... to those of the run."
            )


def _as_predicted(study: InspectedStudy, record: PredictionRecord) -> InspectedStudy:
    """The study with its predicted report, and what is on record of that."""
    return replace(
        study,
        text=record["generated"],
        findings=finding_verdicts(record["findings"]) if "findings" in record else None,
        # the higher the better: without losses and ranks
        scores={name: score for name, score in record.get("scores", {}).items() if not name.endswith(("loss", "rank"))},
    )


def _stated(run: FinishedRun, shown: Sequence[str], model: ReportGenerator) -> dict[str, dict[Prompt, int]]:
    """By study what its report says of each prompt, for a model that asks; empty where the data do not tell how to read it."""
    config = run.data_config.get("knowledge")
    if config is None or not isinstance(model.visual, GroundedVisual):
        return {}
    knowledge: Knowledge = instantiate(config)
    return {
        study: dict(zip(knowledge.prompts, knowledge.facts(run.studies.reports[run.rows[study]]), strict=True))
        for study in shown
    }


def _final_hardness(model: ReportGenerator, run: FinishedRun) -> float | None:
    """The hardness at the last step and epoch, which count from 0, with all of the training done."""
    if not isinstance(model, HardNegativeReportGenerator) or model.hard_negatives.hardening is None:
        return None
    trained = run.metrics.get("training") or {}
    steps, epochs = trained.get("steps", 0), trained.get("epochs", 0)
    end = TrainingProgress(step=max(steps - 1, 0), epoch=max(epochs - 1, 0), fraction=1.0)
    return float(model.hard_negatives.schedule(end))
