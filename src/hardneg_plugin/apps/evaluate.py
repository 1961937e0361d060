"""hardneg-evaluate: score a run on a split, with other decoding or on other data if wanted."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import print_scores
from hardneg_plugin.apps.shared.launch import carry_out
from hardneg_plugin.apps.shared.own_folder import own_folder
from hardneg_plugin.apps.shared.ranks import (
    Job,
    agreed,
    broadcast_job,
    interruptible,
    make_trainer,
    setup_distributed,
    share_of,
)
from hardneg_plugin.apps.shared.same_inputs import check_same_file, check_same_inputs
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.fingerprint import fingerprint
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import write_json, write_jsonl
from hardneg_plugin.metrics.score_card import scores_and_intervals
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.runs.checkpoint import (
    check_writes_reports,
    find_checkpoint,
    load_released_model,
    load_trained_model,
    writes_reports,
)
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.provenance import provenance
from hardneg_plugin.runs.taking import remove_scores, take_evaluation_folder
from hardneg_plugin.terminal import say
from hardneg_plugin.training.progress_bar import TrainingBar


def main() -> None:
    """Entry point of hardneg-evaluate."""
    commands.evaluate()


def start(config: DictConfig) -> None:
    """Run the composed job in this process, or in as many as `trainer.devices` asks for."""
    if config.split not in ("val", "test"):
        raise UserError(f"split: expected val or test, but got {config.split!r}.")
    if "data" not in config:  # whose settings those of the tokenizer refer to
        config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "tokenizer"])

    def take(folder: Path, is_named: bool) -> AbstractContextManager[Path]:
        return take_evaluation_folder(folder, is_named=is_named, overwrite=config.overwrite)

    with own_folder(config.trainer, take) as refused:
        carry_out(Job.of_command_line(config, "evaluate", refused), evaluate)


def evaluate(job: Job) -> None:
    """Score a checkpoint of a run; write metrics.json and the predictions into a new folder below the run.

    Raises:
        UserError: for any error that a user can cause.
        KeyboardInterrupt: if interrupted.
    """
    job = broadcast_job(job, setup_distributed(job))
    config, output = job.config, RunFolder(job.folder)
    data, model, settings = agreed(lambda: _load(config))
    check_same_inputs(data.source, data.tokenizer)
    check_same_file(Path(settings["checkpoint"]))
    pl.seed_everything(config.seed, workers=True, verbose=False)  # decoding may draw words
    config.trainer.precision = settings["precision"]
    trainer = agreed(
        lambda: make_trainer(
            config,
            output,
            callbacks=[TrainingBar()],
            logger=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        )
    )
    run_split = trainer.validate if config.split == "val" else trainer.test
    with interruptible(trainer):
        run_split(model, share_of(data.in_order(config.split), trainer), verbose=False)
    scores = model.scores_of(config.split)
    records, card = scores.records(), scores.card()
    if trainer.is_global_zero:
        origin = provenance(data=fingerprint(data.source))
        facts = {**settings, "versions": origin.pop("versions"), "provenance": origin}
        remove_scores(output.path)
        if records:  # a model that writes nothing has none
            write_jsonl(output.predictions(config.split), records)
        write_json(output.metrics, {**scores_and_intervals({config.split: card}), **facts})
        print_scores(f"{config.split} split of {config.run}", {str(config.checkpoint): card.values})
        say(f"\nscores   {output.metrics}")
        if records:
            say(f"reports  {output.predictions(config.split)}")


def _load(config: DictConfig) -> tuple[StudyDataModule, StudyModel[Any], dict[str, Any]]:
    """The data, the model, and what metrics.json holds about both.

    Raises:
        UserError: either is wrong.
    """
    run = RunFolder.existing(config.run)
    trained = run.read_config(trust=config.trust)
    checkpoint_path = find_checkpoint(run, config.checkpoint)
    data: StudyDataModule = instantiate((config.data if "data" in config else trained.data).datamodule)
    chosen = {key: value for key, value in config.decoding.items() if value is not None}
    if chosen or checkpoint_path.suffix == ".pth":
        check_writes_reports(trained.model, run)
    decoding = OmegaConf.merge(trained.decoding, chosen) if writes_reports(trained.model) else None
    reader = data.source.read_findings
    arguments: dict[str, Any] = {}
    if decoding is not None:
        splits = [config.split] if config.rank_by_likelihood else []
        arguments = {"read_findings": reader, "decoding": instantiate(decoding), "rank_by_likelihood": splits}
    if checkpoint_path.suffix == ".pth":
        model: StudyModel[Any] = load_released_model(trained.model, checkpoint_path, data.tokenizer, **arguments)
    else:
        model = load_trained_model(trained.model, checkpoint_path, trust=config.trust, **arguments)
        data.tokenizer = model.tokenizer
    settings = {
        "run": str(run.path),
        "checkpoint": str(checkpoint_path),
        **({} if decoding is None else {"decoding": OmegaConf.to_container(decoding)}),
        "precision": config.trainer.precision or OmegaConf.select(trained, "trainer.precision", default="32-true"),
        "data": OmegaConf.to_container(config.data, resolve=True) if "data" in config else "the run's own",
    }
    return data, model, settings


if __name__ == "__main__":
    main()
