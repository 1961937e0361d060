"""Models from checkpoints, those of hardneg-train and released ones, without running code from the files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.backbones.official import load_released
from hardneg_plugin.backbones.released import read_released
from hardneg_plugin.data.tokenizer import Tokenizer, tokenizer_from_state
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.shell import command_line
from hardneg_plugin.runs.trusted import check_plain, check_trusted
from hardneg_plugin.tensor_file import read_tensors

HOST = "hardneg_plugin.models.report_generator.ReportGenerator"
TIMM = "hardneg_plugin.backbones.visual.VisualExtractor"
PLUGGED = "hardneg_plugin.models.hard_negative_generator.HardNegativeReportGenerator"


def find_checkpoint(run: RunFolder, name: str) -> Path:
    """The checkpoint file of a name.

    Args:
        run: the run folder.
        name: `best`, `last`, or a path.

    Raises:
        UserError: there is no such file.
    """
    path = {"best": run.best, "last": run.last}.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"checkpoint: expected best, last, a .ckpt or a released .pth file, but {path} is no file.")
    return path


def writes_reports(model: DictConfig) -> bool:
    """Whether the model of a config writes reports; a pre-trained encoder has no decoder."""
    return "backbone" in model or "text" not in model


def check_writes_reports(model: DictConfig, run: RunFolder) -> None:
    """Refuse the run of a model that writes no reports.

    Args:
        model: the model's config.
        run: the run folder, for the message.

    Raises:
        UserError: it writes none; says what to do instead.
    """
    if not writes_reports(model):
        raise UserError(
            f"Expected the run of a report generator, but {run.path} is one of pre-training: it has no report decoder and writes "
            f"no reports. {command_line('hardneg-tasks', run.path)} says what its features are worth."
        )


def load_trained_model(
    model: DictConfig, path: Path, *, trust: bool = False, hard_negatives: bool = True, **arguments: Any
) -> Any:
    """Build the model of a run with the weights and the vocabulary of a checkpoint of hardneg-train.

    Args:
        model: the model's config, as training started from it.
        path: the checkpoint, which says how its decoder is built.
        trust: build any class that the config names; the checkpoint names none.
        hard_negatives: False builds the bare host, which suffices for writing reports; the objective may need further files.
        arguments: more arguments of the model.

    Raises:
        UserError: the file cannot be read, does not fit the model, or names a class.
    """
    checkpoint = read_checkpoint(path)
    if trust is not True:
        check_trusted(checkpoint["backbone"], str(path))
    check_plain(checkpoint["backbone"], str(path))
    if not hard_negatives and model.get("_target_") == PLUGGED:
        model, checkpoint = _bare_host(model, checkpoint)
    tokenizer = _tokenizer_of(checkpoint, path)
    config = without_starting_weights(model, checkpoint["backbone"])
    built = instantiate(config, _partial_=True)(tokenizer=tokenizer, **arguments)
    load_weights(built, checkpoint, path)
    return built


def load_released_model(model: DictConfig, path: Path, tokenizer: Tokenizer, **arguments: Any) -> Any:
    """Build the `ReportGenerator` of a run with the weights of a released `.pth` file of R2Gen or R2GenCMN.

    Args:
        model: the model's config.
        path: the file.
        tokenizer: that of the data; the file holds none.
        arguments: more arguments of the model.

    Raises:
        UserError: the file cannot be read, or does not fit the model.
    """
    built = instantiate(without_starting_weights(model, {}), _partial_=True)(tokenizer=tokenizer, **arguments)
    load_released(read_released(path), built.decoder, built.visual, source=str(path))
    return built


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of hardneg-train: tensors and plain values only.

    Raises:
        UserError: it cannot be read, or hardneg-train did not write it.
    """
    try:
        checkpoint = read_tensors(path)
    except UserError:
        raise
    except Exception as error:  # a damaged or foreign file can make the reader raise anything
        raise _unreadable(path, error) from error
    wanted = ("state_dict", "tokenizer", "backbone")
    missing = [key for key in wanted if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), dict)]
    if missing:
        raise UserError(f"checkpoint {path} was not written by this hardneg-train: it holds no {', '.join(missing)}.")
    return dict(checkpoint)


@dataclass(frozen=True)
class Moment:
    """When a checkpoint of hardneg-train was written."""

    epoch: int
    """From 1."""
    step: int
    """Optimizer steps before it."""
    logged_step: int | None = None
    """The step in the CSV log of the validation before it; None in checkpoints that do not say it."""


def moment_of(path: Path) -> Moment:
    """When a checkpoint of hardneg-train was written; the weights stay on the disk.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = read_tensors(path, map_location="meta", mmap=True)
        loop = content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
        return Moment(int(content["epoch"]) + 1, int(content["global_step"]), loop.get("_batches_that_stepped"))
    except Exception as error:  # as in `read_checkpoint`
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    """What is wrong with a file, and the other checkpoint of its run where that one can be read."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError as failed:
        return UserError(f"checkpoint {path} cannot be read: {failed.strerror}.")
    if not begin:
        reason = "it is empty"
    elif begin == b"PK\3\4":
        try:
            reason = first_line(error) if is_zipfile(path) else "it is cut short"
        except BadZipFile as damage:
            reason = first_line(damage)
    else:
        reason = "it is no checkpoint of hardneg-train"
    return UserError(f"checkpoint {path} cannot be read: {reason}.{_way_out(path)}")


def _way_out(path: Path) -> str:
    """What to do with the checkpoint beside a broken one; empty if there is none."""
    others = {"last.ckpt": "best", "best.ckpt": "last"}
    if path.name not in others:
        return ""
    other = path.with_name(f"{others[path.name]}.ckpt")
    try:
        epoch = int(read_tensors(other, map_location="meta", mmap=True)["epoch"]) + 1
    except Exception:  # as in `read_checkpoint`
        return ""
    hint = f" {other.name}, of epoch {epoch}, can be read: other commands take it by checkpoint={other.stem}"
    if other.stem == "last":
        return f"{hint}."
    return f"{hint}, and training goes on from there after {command_line('cp', other.absolute(), path.absolute())}"


def load_weights(model: pl.LightningModule, checkpoint: dict[str, Any], path: Path) -> None:
    """Load all weights of a checkpoint.

    Args:
        model: the model to load them into.
        checkpoint: what `read_checkpoint` gave.
        path: its file, for the message.

    Raises:
        UserError: they do not fit the model.
    """
    model.on_load_checkpoint(checkpoint)  # restores weights that training keeps apart, and refuses another vocabulary
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the run's model: {error}") from error


def _bare_host(model: DictConfig, checkpoint: dict[str, Any]) -> tuple[DictConfig, dict[str, Any]]:
    """The config and the checkpoint of the host, without the plug-in."""
    host = {key: value for key, value in model.items() if key not in ("hard_negatives", "report_feature", "chunks")}
    weights = {
        name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("hard_negatives.")
    }
    return OmegaConf.create({**host, "_target_": HOST}), {**checkpoint, "state_dict": weights}


def _tokenizer_of(checkpoint: dict[str, Any], path: Path) -> Tokenizer:
    try:
        return tokenizer_from_state(checkpoint["tokenizer"])
    except UserError:
        raise
    except Exception as error:  # a foreign state can make the tokenizers raise anything
        raise UserError(f"checkpoint {path} holds no vocabulary that can be read: {error!r}") from error


def without_starting_weights(model: DictConfig, backbone: dict[str, Any]) -> DictConfig:
    """A model's config without the weights that training started from: the checkpoint replaces them, and files may be gone.

    Args:
        model: the model's config.
        backbone: from the checkpoint, settings that replace those of the decoder.

    Raises:
        UserError: the model lacks a part that ours have.
    """
    for part in ("visual", "backbone" if writes_reports(model) else "text"):
        if not isinstance(model.get(part), DictConfig):
            raise UserError(f"Expected the config of one of our models, but that of the run has no model.{part}.")
    visual = dict(model.visual)
    if (visual.get("pretrained") or visual.get("weights")) and visual.get("_target_") == TIMM:
        # one that started from trained weights takes three channels
        visual["options"] = {"in_chans": 3, **(visual.get("options") or {})}
    nothing = {"pretrained": False, "weights": None, "download": None}
    visual |= {key: value for key, value in nothing.items() if key in visual}
    parts = {**model, "visual": visual}
    if writes_reports(model):
        # replaced, not merged: nested settings come from the checkpoint as a whole
        without = {"checkpoint": None} if "checkpoint" in model.backbone else {}
        parts["backbone"] = {**model.backbone, **without, **backbone}
    return OmegaConf.create(parts)
