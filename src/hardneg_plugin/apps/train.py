"""hardneg-train: train a model, score it on both splits, and write its run folder."""

import importlib.metadata
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import print_scores
from hardneg_plugin.apps.shared.launch import carry_out
from hardneg_plugin.apps.shared.ranks import Job, agreed, broadcast_job, interruptible, make_trainer, setup_distributed
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.tokenizer import check_vocabulary
from hardneg_plugin.evaluation.baselines import embed_studies, most_frequent_report, nearest_image_reports
from hardneg_plugin.files import write_json, write_jsonl
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import make_record
from hardneg_plugin.metrics.score_card import ScoreCard, scores_and_intervals
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.runs.checkpoint import load_weights, read_checkpoint, writes_reports
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.shell import command_line
from hardneg_plugin.runs.trusted import check_trusted
from hardneg_plugin.training.callbacks import mode_of

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of hardneg-train."""
    commands.train()


def start(config: DictConfig) -> None:
    """Run the composed job in this process, or in as many as `trainer.devices` asks for."""
    job = Job.of_command_line(config)
    if config.resume is not None and config.trust is not True:
        # before anything that the overrides of the run name is built
        check_trusted(job.settings, f"resume={config.resume}")
    carry_out(job, train)


def train(job: Job) -> None:
    """Train, score and write the run folder; each process of a run calls it, and all do the job of rank 0.

    Raises:
        UserError: for any error that a user can cause.
        KeyboardInterrupt: if interrupted.
    """
    strategy = setup_distributed(job.config)
    job = broadcast_job(job, strategy)
    config, run = job.config, RunFolder(job.folder)
    data, model = agreed(lambda: _build(config))
    trainer = agreed(
        lambda: make_trainer(
            config,
            callbacks=list(instantiate(config.callbacks).values()),
            logger=list(instantiate(config.logger).values()),
        )
    )
    first = trainer.is_global_zero
    baselines = agreed(lambda: _score_baselines(config, data, model) if config.baselines and first else {})
    checkpoint = strategy.broadcast(agreed(lambda: _checkpoint_to_resume(config, run, model) if first else None))
    if first:
        run.write_config(config, job.overrides)
    for logger in trainer.loggers:
        logger.log_hyperparams(job.settings)

    started = time.monotonic()
    with interruptible(trainer):
        trainer.fit(model, data, ckpt_path=None if checkpoint is None else str(checkpoint))
        seconds = time.monotonic() - started
        has_last, has_best = strategy.broadcast((run.last.is_file(), run.best.is_file()))
        if not has_last:  # trainer.max_epochs=0: the model as it started
            trainer.save_checkpoint(run.last)
        best = str(run.best) if has_best else None
        cards = {split: _score(trainer, model, data, split, best, run) for split in ("val", "test")}
    if first:
        facts = _facts(trainer, model, config, seconds, has_best)
        write_json(run.metrics, {**scores_and_intervals(cards), "baselines": baselines, **facts})
        print_scores("Test split", {"this model": cards["test"].values, **baselines})
        _print_files(run, isinstance(model, ReportGenerator))


def _build(config: DictConfig) -> tuple[StudyDataModule, StudyModel[Any]]:
    """The data and the model of a config.

    Raises:
        UserError: either is wrong.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data: StudyDataModule = instantiate(config.data.datamodule)
    # not by instantiate, which would take a tokenizer that is a dataclass for a config
    make = instantiate(config.model, _partial_=True)
    reader = {"read_findings": data.source.read_findings} if writes_reports(config.model) else {}
    model: StudyModel[Any] = make(tokenizer=data.tokenizer, **reader)
    return data, model


def _facts(
    trainer: pl.Trainer, model: StudyModel[Any], config: DictConfig, seconds: float, has_best: bool
) -> dict[str, Any]:
    """What metrics.json holds beside the scores."""
    scored_against = {
        "references": "full reports as the tokenizer cleans them; cut/ those cut to max_length words",
        "max_length": config.data.max_length,
        "decoding": OmegaConf.to_container(config.decoding, resolve=True),
    }
    return {
        "checkpoint": "checkpoints/best.ckpt" if has_best else None,
        "selected_by": {"monitor": config.monitor, "mode": mode_of(config.monitor)},
        "training": {
            "seconds": round(seconds, 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "processes": trainer.world_size,
        },
        "parameters": _count_parameters(model),
        **({"scored_against": scored_against} if isinstance(model, ReportGenerator) else {}),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning", "timm")},
    }


def _checkpoint_to_resume(config: DictConfig, run: RunFolder, model: StudyModel[Any]) -> Path | None:
    """The last checkpoint of a run to resume, checked against the model; None to start from the beginning.

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
    return run.last


def _score(
    trainer: pl.Trainer,
    model: StudyModel[Any],
    data: StudyDataModule,
    split: str,
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


def _count_parameters(model: StudyModel[Any]) -> dict[str, int]:
    """The numbers of parameters: those of inference, and those that exist in training only."""
    counts = {"inference": 0, "training_only": 0}
    for name, parameter in model.named_parameters():
        counts["training_only" if name.startswith("hard_negatives.") else "inference"] += parameter.numel()
    return counts


def _print_files(run: RunFolder, has_reports: bool) -> None:
    """Print where everything is, and what to do next."""
    shown = run.path
    print(f"\nRun folder    {shown}")
    print(f"  scores      {run.metrics.relative_to(shown)}")
    if has_reports:
        print(
            f"  reports     {run.predictions('test').relative_to(shown)}, {run.predictions('val').relative_to(shown)}"
        )
    checkpoints = [path for path in (run.best, run.last) if path.is_file()]
    print(f"  checkpoints {', '.join(str(path.relative_to(shown)) for path in checkpoints)}")
    print("  curves      logs/ (tensorboard --logdir), logs/csv/")
    print(
        f"Score it again: {command_line('hardneg-evaluate', shown, *([] if run.best in checkpoints else ['checkpoint=last']))}"
    )
    if has_reports:
        print(f"Look at it, study by study: {command_line('hardneg-page', shown)}")
        print(f"Write reports with it: {command_line('hardneg-predict', shown)} IMAGE...")
    else:
        print(f"Downstream tasks: {command_line('hardneg-tasks', shown)}")


if __name__ == "__main__":
    main()
