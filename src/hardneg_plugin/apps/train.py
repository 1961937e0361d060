"""hardneg-train: train a model, score it on both splits, and write its run folder."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.plugins import CheckpointIO

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import COLUMNS, print_scores
from hardneg_plugin.apps.shared.launch import carry_out, resume_hint
from hardneg_plugin.apps.shared.own_folder import own_folder
from hardneg_plugin.apps.shared.ranks import Job, agreed, broadcast_job, interruptible, make_trainer, setup_distributed
from hardneg_plugin.apps.shared.same_inputs import check_same_file, check_same_inputs
from hardneg_plugin.apps.shared.startup_summary import count_parameters, device_in_words, startup_summary
from hardneg_plugin.apps.shared.train_settings import check_monitor_of_data
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.fingerprint import fingerprint
from hardneg_plugin.data.leakage import leakage_of, leakage_warning
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.data.tokenizer import check_vocabulary
from hardneg_plugin.divergence import DivergedError
from hardneg_plugin.evaluation.baselines import embed_studies, most_frequent_report, nearest_image_reports
from hardneg_plugin.files import write_json, write_jsonl
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import make_record
from hardneg_plugin.metrics.score_card import ScoreCard, scores_and_intervals
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.runs.checkpoint import Moment, load_weights, moment_of, read_checkpoint, writes_reports
from hardneg_plugin.runs.csv_log import read_csv_log
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.places import build_all_in, check_writes_inside
from hardneg_plugin.runs.provenance import command_without_secrets, provenance
from hardneg_plugin.runs.shell import command_line
from hardneg_plugin.runs.taking import remove_run, take_run_folder
from hardneg_plugin.runs.trusted import check_trusted
from hardneg_plugin.terminal import say
from hardneg_plugin.training.callbacks import RecordProvenance, mode_of
from hardneg_plugin.training.checkpoint_io import WholeFileCheckpointIO
from hardneg_plugin.training.epoch_choice import better_epoch
from hardneg_plugin.training.monitor import resolve_monitor

log = logging.getLogger(__name__)

COMPARED = [name for name in COLUMNS if name not in ("BLEU-1", "R@1", "R@10", "unique_share")]
"""Scores by which epochs are compared with that of the checkpoint: one of each kind."""


def main() -> None:
    """Entry point of hardneg-train."""
    commands.train()


def start(config: DictConfig) -> None:
    """Run the composed job in this process, or in as many as `trainer.devices` asks for."""
    resolve_monitor(config)
    if config.resume is not None and config.trust is not True:
        # before anything that the overrides of the run name is built, or anything is made
        settings = OmegaConf.to_container(config, resolve=True)
        check_trusted(settings, f"resume={config.resume}")
        check_writes_inside(settings, f"resume={config.resume}")

    def take(folder: Path, is_named: bool) -> AbstractContextManager[Path]:
        resumes = config.resume is not None
        return take_run_folder(folder, is_named=is_named, resumes=resumes, overwrite=config.overwrite)

    with own_folder(config.trainer, take) as refused:
        carry_out(Job.of_command_line(config, refused=refused), train)


def train(job: Job) -> None:
    """Train, score and write the run folder; each process of a run calls it, and all do the job of rank 0.

    Raises:
        UserError: for any error that a user can cause.
        KeyboardInterrupt: if interrupted.
    """
    strategy = setup_distributed(job)
    job = broadcast_job(job, strategy)
    config, run = job.config, RunFolder(job.folder)
    data, model = agreed(lambda: _build(config))
    check_same_inputs(data.source, data.tokenizer)
    origin: dict[str, Any] = {}  # which is known once the trainer is
    trainer = agreed(
        lambda: make_trainer(
            config,
            run,
            callbacks=[*build_all_in(run, config, "callbacks"), RecordProvenance(origin)],
            logger=build_all_in(run, config, "logger"),
            plugins=_plugins(config, run),
        )
    )
    first = trainer.is_global_zero
    origin |= agreed(lambda: _introduce(job, trainer, data, model) if first else {})
    scored = _scored_splits(trainer, data)
    has_baselines = config.baselines and first and "test" in scored
    baselines = agreed(lambda: _score_baselines(config, data, model) if has_baselines else {})
    checkpoint = strategy.broadcast(
        agreed(lambda: _checkpoint_to_resume(config, run, model, origin) if first else None)
    )
    if checkpoint is not None:
        check_same_file(checkpoint)
    if first:
        if config.overwrite:  # only now: nothing that the user could have set wrong is left
            remove_run(run.path)
        if checkpoint is not None:  # until it is written again, the run is not finished
            run.metrics.unlink(missing_ok=True)
        run.write_config(config, job.overrides)
    for logger in trainer.loggers:
        logger.log_hyperparams(job.settings)

    started = time.monotonic()
    with interruptible(trainer):
        try:
            trainer.fit(model, data, ckpt_path=None if checkpoint is None else str(checkpoint))
        except DivergedError as error:
            raise DivergedError(f"{error} {_way_out(job, run)}") from error
        seconds = time.monotonic() - started
        has_last, has_best = strategy.broadcast((run.last.is_file(), run.best.is_file()))
        if not has_last:  # trainer.max_epochs=0: the model as it started
            trainer.save_checkpoint(run.last)
        best = str(run.best) if has_best else None
        cards: dict[str, ScoreCard] = {split: _score(trainer, model, data, split, best, run) for split in scored}
    if first:
        moment = moment_of(run.best if has_best else run.last)
        facts = _facts(trainer, model, config, seconds, moment if has_best else None)
        facts |= {"versions": origin.pop("versions"), "provenance": origin}
        write_json(run.metrics, {**scores_and_intervals(cards), "baselines": baselines, **facts})
        trained = f"epoch {moment.epoch} of {trainer.current_epoch}" if trainer.global_step else "not trained"
        row = f"{'best' if has_best else 'last'}.ckpt, {trained}"
        for split in scored[-1:]:
            print_scores(f"{split.capitalize()} split", {row: cards[split].values, **baselines})
        if has_best and (better := better_epoch(read_csv_log(run), moment, config.monitor, COMPARED)) is not None:
            log.warning("Warning: %s", better)
        _print_files(run, scored if isinstance(model, ReportGenerator) else None)


def _build(config: DictConfig) -> tuple[StudyDataModule, StudyModel[Any]]:
    """The data and the model of a config.

    Raises:
        UserError: either is wrong.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data: StudyDataModule = instantiate(config.data.datamodule)
    check_monitor_of_data(config.monitor, reads_findings=data.source.read_findings is not None)
    # not by instantiate, which would take a tokenizer that is a dataclass for a config
    make = instantiate(config.model, _partial_=True)
    reader = {"read_findings": data.source.read_findings} if writes_reports(config.model) else {}
    model: StudyModel[Any] = make(tokenizer=data.tokenizer, **reader)
    return data, model


def _plugins(config: DictConfig, run: RunFolder) -> list[Any]:
    """Those of the config, and what writes checkpoints: for a run that may be someone else's, into its folder only."""
    plugins = instantiate(config.trainer.get("plugins")) or []
    plugins = list(plugins) if isinstance(plugins, list | ListConfig) else [plugins]
    if any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        return plugins
    is_own = config.resume is None or config.trust is True
    return [*plugins, WholeFileCheckpointIO(None if is_own else run.path)]


def _introduce(job: Job, trainer: pl.Trainer, data: StudyDataModule, model: StudyModel[Any]) -> dict[str, Any]:
    """Print what is about to happen, and warn of studies on both sides of the split; returns where the results come from."""
    say(startup_summary(job.config, data, model, trainer, job.folder), flush=True)
    if (warning := leakage_warning(leakage_of(data.source))) is not None:
        log.warning("Warning: %s", warning)
    say(flush=True)
    return {
        **provenance(data=fingerprint(data.source)),
        "device": device_in_words(trainer),
        "command": command_without_secrets("hardneg-train", job.overrides),
    }


def _way_out(job: Job, run: RunFolder) -> str:
    """What to do about a training that diverged."""
    if not run.last.is_file():
        return "No checkpoint was written before. Look at these studies, and train again with a lower optimizer.lr."
    before = moment_of(run.last)
    return (
        f"{run.last} is whole, from step {before.step} in epoch {before.epoch}. Look at these studies; a smaller "
        f"trainer.gradient_clip_val or trainer.precision=32-true may help. {resume_hint(job)}"
    )


def _facts(
    trainer: pl.Trainer, model: StudyModel[Any], config: DictConfig, seconds: float, best: Moment | None
) -> dict[str, Any]:
    """What metrics.json holds beside the scores; `best` is when best.ckpt was written."""
    scored_against = {
        "references": "full reports as the tokenizer cleans them; cut/ those cut to max_length words",
        "max_length": config.data.max_length,
        "decoding": OmegaConf.to_container(config.decoding, resolve=True),
    }
    return {
        "checkpoint": "checkpoints/best.ckpt" if best is not None else None,
        "selected_by": {
            "monitor": config.monitor,
            "mode": mode_of(config.monitor),
            "epoch": best and best.epoch,
            "step": best and best.step,
        },
        "training": {
            "seconds": round(seconds, 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "processes": trainer.world_size,
        },
        "parameters": count_parameters(model),
        **({"scored_against": scored_against} if isinstance(model, ReportGenerator) else {}),
    }


def _checkpoint_to_resume(
    config: DictConfig, run: RunFolder, model: StudyModel[Any], origin: Mapping[str, Any]
) -> Path | None:
    """The last checkpoint of a run to resume, checked against the model; None to start from the beginning.

    Warns where it came from other data.

    Raises:
        UserError: it does not fit the model.
    """
    if config.resume is None:
        return None
    if not run.last.is_file():
        log.warning("%s has no checkpoint yet: training starts from the beginning.", run.path)
        return None
    checkpoint = read_checkpoint(run.last)
    check_vocabulary(checkpoint, model.tokenizer)
    load_weights(model, checkpoint, run.last)
    before = checkpoint.get("provenance", {}).get("data")  # checkpoints of earlier versions have none
    if before is not None and before != origin["data"]:
        log.warning("Warning: %s was trained on other data than those of now; scores mix both.", run.last)
    return run.last


def _scored_splits(trainer: pl.Trainer, data: StudyDataModule) -> list[SplitName]:
    """The splits that have studies and whose batches are not limited to none."""
    limits: dict[SplitName, float] = {"val": trainer.limit_val_batches, "test": trainer.limit_test_batches}
    return [split for split, limit in limits.items() if limit and len(data.source.split(split))]


def _score(
    trainer: pl.Trainer,
    model: StudyModel[Any],
    data: StudyDataModule,
    split: SplitName,
    checkpoint: str | None,
    run: RunFolder,
) -> ScoreCard:
    """Score a split under a checkpoint (None: the model as it is) and write its predictions."""
    evaluate = trainer.validate if split == "val" else trainer.test
    evaluate(model, data, ckpt_path=checkpoint, verbose=False)
    scores = model.scores_of(split)  # type: ignore[arg-type]
    records = scores.records()
    card: ScoreCard = scores.card()
    if trainer.is_global_zero and records:  # a model that writes nothing has none
        write_jsonl(run.predictions(split), records)
    return card


def _score_baselines(config: DictConfig, data: StudyDataModule, model: StudyModel[Any]) -> dict[str, dict[str, float]]:
    """The test scores of two ways to write a report without training; on one process."""
    train = embed_studies(model.visual, data.in_order("train"))
    test = embed_studies(model.visual, data.in_order("test"))
    texts = {
        "most frequent report": [most_frequent_report(train.reports)] * len(test.ids),
        "report of the most similar image": nearest_image_reports(test, train),
    }
    split, reader = data.source.split("test"), data.source.read_findings
    caption = instantiate(config.metrics.caption)
    computed = {}
    for name, generated in texts.items():
        columns = zip(test.ids, test.reports, generated, split.patients, split.labels, strict=True)
        records = [
            make_record(*study, patient=patient, labels=labels, read_findings=reader)
            for *study, patient, labels in columns
        ]
        computed[name] = score_records(records, caption=caption).values
    return computed


def _print_files(run: RunFolder, with_reports: Sequence[str] | None) -> None:
    """Print where everything is, and what to do next; the splits with reports are None for a model that writes none."""
    shown = run.path
    say(f"\nRun folder    {shown}")
    say(f"  scores      {run.metrics.relative_to(shown)}")
    if with_reports:
        files = [str(run.predictions(split).relative_to(shown)) for split in reversed(with_reports)]
        say(f"  reports     {', '.join(files)}")
    checkpoints = [path for path in (run.best, run.last) if path.is_file()]
    say(f"  checkpoints {', '.join(str(path.relative_to(shown)) for path in checkpoints)}")
    say("  curves      logs/ (tensorboard --logdir), logs/csv/")
    say(
        f"Score it again: {command_line('hardneg-evaluate', shown, *([] if run.best in checkpoints else ['checkpoint=last']))}"
    )
    if with_reports is None:
        say(f"Downstream tasks: {command_line('hardneg-tasks', shown)}")
        return
    if "test" in with_reports:
        say(f"Look at it, study by study: {command_line('hardneg-page', shown)}")
    say(f"Write reports with it: {command_line('hardneg-predict', shown)} IMAGE...")


if __name__ == "__main__":
    main()
