"""hardneg-evaluate: score a trained run on a split, with other decoding or on other data if wanted."""

from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps.checkpoint import load_weights, read_checkpoint
from hardneg_plugin.apps.cli import run_command, run_directory
from hardneg_plugin.apps.run_folder import RunFolder, write_json, write_jsonl
from hardneg_plugin.apps.table import print_scores
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.tokenizer import tokenizer_from_state
from hardneg_plugin.errors import UserError
from hardneg_plugin.generator import ReportGenerator


def main() -> None:
    """Entry point of hardneg-evaluate."""
    run_command("evaluate", evaluate)


def evaluate(config: DictConfig) -> None:
    """Score a run's checkpoint; writes metrics.json and the predictions into a folder of their own below the run."""
    if config.split not in ("val", "test"):
        raise UserError(f"split: expected val or test, but got {config.split!r}.")
    run = RunFolder.existing(config.run)
    trained = run.read_config()
    checkpoint_path = checkpoint_of(run, config.checkpoint)
    checkpoint = read_checkpoint(checkpoint_path)
    data: StudyDataModule = instantiate((config.data if "data" in config else trained.data).datamodule)
    data.tokenizer = tokenizer_from_state(checkpoint["tokenizer"])
    chosen = {key: value for key, value in config.decoding.items() if value is not None}
    decoding = OmegaConf.merge(trained.decoding, chosen)
    model: ReportGenerator = instantiate(without_starting_weights(trained.model), _partial_=True)(
        tokenizer=data.tokenizer, read_findings=data.source.read_findings, decoding=instantiate(decoding)
    )
    load_weights(model, checkpoint, checkpoint_path)
    trainer: pl.Trainer = instantiate(config.trainer, logger=False, enable_checkpointing=False)
    run_split = trainer.validate if config.split == "val" else trainer.test
    (logged,) = run_split(model, data, verbose=False)
    scores = {name.removeprefix(f"{config.split}/"): value for name, value in logged.items()}
    records = model.scores_of(config.split).records()
    if trainer.is_global_zero:
        output = RunFolder(run_directory())
        settings = {
            "run": str(run.path),
            "checkpoint": str(checkpoint_path),
            "decoding": OmegaConf.to_container(decoding),
            "data": OmegaConf.to_container(config.data, resolve=True) if "data" in config else "the run's own",
        }
        write_json(output.metrics, {config.split: scores, **settings})
        write_jsonl(output.predictions(config.split), records)
        print_scores(f"{config.split} split of {run.path}", {str(config.checkpoint): scores})
        print(f"\nscores   {output.metrics}\nreports  {output.predictions(config.split)}")


def without_starting_weights(model: DictConfig) -> DictConfig:
    """The same model built without the weights that training started from: a checkpoint's follow, and files may be gone."""
    visual = model.visual
    if not (visual.get("pretrained") or visual.get("weights")):
        return model
    # started from trained weights, the extractor was built for three channels
    options = {"in_chans": 3, **(visual.get("options") or {})}
    merged = OmegaConf.merge(model, {"visual": {"pretrained": False, "weights": None, "options": options}})
    assert isinstance(merged, DictConfig)
    return merged


def checkpoint_of(run: RunFolder, name: str) -> Path:
    """The checkpoint file that a name means.

    Raises:
        UserError: it is not there.
    """
    path = {"best": run.best, "last": run.last}.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"checkpoint: expected best, last or a .ckpt file, but {path} is no file.")
    return path


if __name__ == "__main__":
    main()
