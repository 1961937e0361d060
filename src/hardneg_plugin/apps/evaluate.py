"""hardneg-evaluate: score a trained run on a split, with other decoding or on other data if wanted."""

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps.cli import run_command, run_directory
from hardneg_plugin.apps.table import print_scores
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.errors import UserError
from hardneg_plugin.generator import ReportGenerator
from hardneg_plugin.runs.checkpoint import checkpoint_of, released_model, trained_model
from hardneg_plugin.runs.run_folder import RunFolder, write_json, write_jsonl


def main() -> None:
    """Entry point of hardneg-evaluate."""
    run_command("evaluate", evaluate)


def evaluate(config: DictConfig) -> None:
    """Score a run's checkpoint; writes metrics.json and the predictions into a folder of their own below the run."""
    if config.split not in ("val", "test"):
        raise UserError(f"split: expected val or test, but got {config.split!r}.")
    if config.trainer.devices not in (1, "1") or config.trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.devices: hardneg-evaluate runs in one process, but got {config.trainer.devices}. Set "
            "trainer.devices=1; trainer=gpu scores on a GPU."
        )
    run = RunFolder.existing(config.run)
    trained = run.read_config(trust=config.trust)
    checkpoint_path = checkpoint_of(run, config.checkpoint)
    data: StudyDataModule = instantiate((config.data if "data" in config else trained.data).datamodule)
    chosen = {key: value for key, value in config.decoding.items() if value is not None}
    decoding = OmegaConf.merge(trained.decoding, chosen)
    arguments = {"read_findings": data.source.read_findings, "decoding": instantiate(decoding)}
    if checkpoint_path.suffix == ".pth":
        model: ReportGenerator = released_model(trained.model, checkpoint_path, data.tokenizer, **arguments)
    else:
        model = trained_model(trained.model, checkpoint_path, trust=config.trust, **arguments)
        data.tokenizer = model.tokenizer
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


if __name__ == "__main__":
    main()
