"""hardneg-train: train a report generator, score it, and write down what it wrote."""

import importlib.metadata
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps.checkpoint import load_weights, read_checkpoint
from hardneg_plugin.apps.cli import fail, run_command, run_directory
from hardneg_plugin.apps.run_folder import RunFolder, write_json, write_jsonl
from hardneg_plugin.apps.table import print_scores
from hardneg_plugin.baselines import embed_studies, most_frequent_report, nearest_image_reports
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.errors import UserError
from hardneg_plugin.generator import ReportGenerator, check_vocabulary
from hardneg_plugin.scoring import ReportScores

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of hardneg-train."""
    try:
        sys.argv = resumed(sys.argv)
    except UserError as error:
        fail(str(error))
    run_command("train", train)


def resumed(argv: list[str]) -> list[str]:
    """With `resume=<run>` among the arguments: that run's own overrides first, and its folder as the run folder."""
    folders = [argument.partition("=")[2] for argument in argv[1:] if argument.startswith("resume=")]
    if not folders or folders[-1] in ("", "null"):
        return argv
    run = RunFolder.existing(folders[-1].strip("'\""))
    return [argv[0], *run.read_overrides(), *argv[1:], f"hydra.run.dir='{run.path.resolve()}'"]


def train(config: DictConfig) -> None:
    """Train under a composed config in the run folder that Hydra made."""
    run = RunFolder(run_directory())
    check_settings(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data: StudyDataModule = instantiate(config.data.datamodule)
    # as a call of our own: instantiate would take a tokenizer that is a dataclass for a config
    model: ReportGenerator = instantiate(config.model, _partial_=True)(
        tokenizer=data.tokenizer, read_findings=data.source.read_findings
    )
    trainer: pl.Trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.logger).values()),
    )
    baselines = score_baselines(config, data, model) if config.baselines else {}
    checkpoint = checkpoint_to_resume(config, run, model)
    run.write_config(config, [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")])
    log_settings(trainer, config)

    started = time.monotonic()
    try:
        trainer.fit(model, data, ckpt_path=None if checkpoint is None else str(checkpoint))
    except SystemExit:  # how Lightning ends on Ctrl-C
        if trainer.interrupted:
            print(f"Interrupted. Go on with: hardneg-train resume={run.path}", file=sys.stderr)
        raise
    seconds = time.monotonic() - started
    if not run.last.is_file():  # trainer.max_epochs=0: the model as it started
        trainer.save_checkpoint(run.last)
    best = str(run.best) if run.best.is_file() else None
    scores = {
        "val": score(trainer, model, data, "val", best, run),
        "test": score(trainer, model, data, "test", best, run),
    }
    if trainer.is_global_zero:
        write_json(
            run.metrics,
            {
                **scores,
                "baselines": baselines,
                "checkpoint": "checkpoints/best.ckpt" if best else None,
                "selected_by": {
                    "monitor": config.callbacks.checkpoint.monitor,
                    "mode": config.callbacks.checkpoint.mode,
                },
                "training": {
                    "seconds": round(seconds, 1),
                    "epochs": trainer.current_epoch,
                    "steps": trainer.global_step,
                },
                "parameters": count_parameters(model),
                "scored_against": {
                    "references": "full reports as the tokenizer cleans them; cut/ those cut to max_length words",
                    "max_length": config.data.max_length,
                    "decoding": OmegaConf.to_container(config.decoding, resolve=True),
                },
                "versions": {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning", "timm")},
            },
        )
        print_scores("Test split", {"this model": scores["test"], **baselines})
        print_files(run)


def check_settings(config: DictConfig) -> None:
    """Raise a UserError where settings contradict one another, before anything is loaded or written."""
    monitor = config.callbacks.checkpoint.monitor
    if config.metrics.caption is None and monitor.removeprefix("val/").startswith(("BLEU", "METEOR", "ROUGE", "CIDEr")):
        raise UserError(
            f"metrics.caption is null, but callbacks.checkpoint.monitor is {monitor}: choose by another, say "
            "callbacks.checkpoint.monitor=val/report_loss callbacks.checkpoint.mode=min."
        )
    has_end = config.trainer.max_epochs not in (None, -1) or config.trainer.max_steps not in (None, -1)
    counts_to_the_end = config.lr_schedule.interval == "step" or (
        config.model.get("hard_negatives") is not None and config.schedule.unit == "fraction"
    )
    if counts_to_the_end and not has_end:
        raise UserError(
            "trainer.max_epochs and trainer.max_steps give training no end, but the schedules count up to it: set one of "
            "them, or lr_schedule=constant with schedule.unit=epoch."
        )


def checkpoint_to_resume(config: DictConfig, run: RunFolder, model: ReportGenerator) -> Path | None:
    """The last checkpoint of a run to resume, known to fit the model; None to start from the beginning.

    Raises:
        UserError: it does not fit, before anything of the run is written over.
    """
    if config.resume is None:
        return None
    if not run.last.is_file():
        log.warning("%s has no last checkpoint yet: it starts from the beginning.", run.path)
        return None
    checkpoint = read_checkpoint(run.last)
    check_vocabulary(checkpoint, model.tokenizer)
    load_weights(model, checkpoint, run.last)
    return run.last


def score(
    trainer: pl.Trainer,
    model: ReportGenerator,
    data: StudyDataModule,
    split: str,
    checkpoint: str | None,
    run: RunFolder,
) -> dict[str, float]:
    """Score a split under a checkpoint (None: the model as it is) and write its predictions."""
    evaluate = trainer.validate if split == "val" else trainer.test
    (logged,) = evaluate(model, data, ckpt_path=checkpoint, verbose=False)
    records = model.scores_of(split).records()  # type: ignore[arg-type]
    if trainer.is_global_zero:
        write_jsonl(run.predictions(split), records)
    return {name.removeprefix(f"{split}/"): value for name, value in logged.items()}


def score_baselines(config: DictConfig, data: StudyDataModule, model: ReportGenerator) -> dict[str, dict[str, float]]:
    """What two ways to write a report without having learned anything score on the test split."""
    train = embed_studies(model.visual, data.in_order("train"))
    test = embed_studies(model.visual, data.in_order("test"))
    texts = {
        "most frequent report": [most_frequent_report(train.reports)] * len(test.ids),
        "report of the most similar image": nearest_image_reports(test, train),
    }
    scores = ReportScores(caption=instantiate(config.metrics.caption), read_findings=data.source.read_findings)
    computed = {}
    for name, generated in texts.items():
        scores.reset()
        scores.update(test.ids, generated, test.reports)
        computed[name] = scores.compute()
    return computed


def count_parameters(model: ReportGenerator) -> dict[str, int]:
    """Parameters that write reports, and those that exist in training only."""
    counts = {"inference": 0, "training_only": 0}
    for name, parameter in model.named_parameters():
        counts["training_only" if name.startswith("hard_negatives.") else "inference"] += parameter.numel()
    return counts


def log_settings(trainer: pl.Trainer, config: DictConfig) -> None:
    """Give every logger the whole config, as plain values."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)


def print_files(run: RunFolder) -> None:
    """Say where everything is."""
    shown = Path(run.path)
    print(f"\nRun folder    {shown}")
    print(f"  scores      {run.metrics.relative_to(shown)}")
    print(f"  reports     {run.predictions('test').relative_to(shown)}, {run.predictions('val').relative_to(shown)}")
    checkpoints = [path for path in (run.best, run.last) if path.is_file()]
    print(f"  checkpoints {', '.join(str(path.relative_to(shown)) for path in checkpoints)}")
    print("  curves      logs/ (tensorboard --logdir), logs/csv/")
    print(f"Score it again: hardneg-evaluate run={shown}{'' if run.best in checkpoints else ' checkpoint=last'}")


if __name__ == "__main__":
    main()
