"""hardneg-export: write a trained run as a folder for the Hugging Face hub or for ReXrank, or as a file that R2Gen's code loads."""

from pathlib import Path

from omegaconf import DictConfig

from hardneg_plugin.apps import commands
from hardneg_plugin.backbones.official import save_released
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import check_place, whole_folder, writing
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.rexrank_folder import ENVIRONMENT, MODEL, SCRIPT, write_rexrank_files
from hardneg_plugin.runs.checkpoint import check_writes_reports, find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.terminal import say


def main() -> None:
    """Entry point of hardneg-export."""
    commands.export()


def export(config: DictConfig) -> None:
    """Write the model of a run in the format of the config, without what exists in training only."""
    FORMATS[str(config.format)](config)


def _export_released(config: DictConfig) -> None:
    """Write decoder and visual extractor under their released names."""
    if config.license is not None or config.overwrite:
        raise UserError(
            "license and overwrite belong to format=hub and rexrank; format=r2gen writes one file of weights."
        )
    run = RunFolder.existing(config.run)
    trained = run.read_config(trust=config.trust)
    check_writes_reports(trained.model, run)
    path, output = find_checkpoint(run, config.checkpoint), Path(config.output)
    check_place(output, "output")
    model = load_trained_model(trained.model, path, trust=config.trust)
    with writing(output, "Make room, or name another file by output=..."):
        save_released(output, model.decoder, model.visual)  # which checks their kind
    words = model.decoder.vocab_size
    say(f"{output}: {path} under the released names, {words} tokens. Such a file holds no vocabulary.")


def _export_folder(config: DictConfig) -> None:
    """Write a folder that `ReportGenerator.from_pretrained` reads."""
    model = ReportGenerator.from_run(str(config.run), str(config.checkpoint), device="cpu", trust=config.trust)
    model.save_pretrained(config.output, license=config.license, overwrite=config.overwrite)
    size = sum(file.stat().st_size for file in Path(config.output).iterdir())
    say(f"{config.output}: {size / 1e6:.1f} MB. Read README.md, the model card, before you share it.")
    say(f"In Python: ReportGenerator.from_pretrained({str(config.output)!r})")


def _export_rexrank(config: DictConfig) -> None:
    """Write a folder whose script answers ReXrank's command lines."""
    folder = Path(str(config.output)).absolute()
    is_one = (folder / SCRIPT).is_file() and (folder / MODEL).is_dir()
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (config.overwrite and is_one))):
        remedy = "overwrite=true replaces it" if is_one else "it is left as it is"
        raise UserError(f"output: {folder} exists already; {remedy}. Name another folder.")
    model = ReportGenerator.from_run(str(config.run), str(config.checkpoint), device="cpu", trust=config.trust)
    with writing(folder, "Make room, or name another folder."), whole_folder(folder, replaces=is_one) as unfinished:
        model.save_pretrained(unfinished / MODEL, name=folder.name, license=config.license)
        write_rexrank_files(unfinished)
    say(f"{folder}: conda env create -f {ENVIRONMENT}, then python {SCRIPT} INPUT_JSON OUTPUT_JSON IMG_ROOT in it.")


FORMATS = {"r2gen": _export_released, "hub": _export_folder, "rexrank": _export_rexrank}


if __name__ == "__main__":
    main()
