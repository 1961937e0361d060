"""Checkpoints of hardneg-train and released ones, read without running code from them, and the models they make."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.backbones.official import load_released
from hardneg_plugin.backbones.released import read_released
from hardneg_plugin.data.tokenizer import Tokenizer, tokenizer_from_state
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.trusted import check_trusted

HOST = "hardneg_plugin.models.report_generator.ReportGenerator"
PLUGGED = "hardneg_plugin.models.hard_negative_generator.HardNegativeReportGenerator"


def find_checkpoint(run: RunFolder, name: str) -> Path:
    """The checkpoint file that a name means: `best`, `last`, or a path.

    Raises:
        UserError: it is not there.
    """
    path = {"best": run.best, "last": run.last}.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"checkpoint: expected best, last, a .ckpt or a released .pth file, but {path} is no file.")
    return path


def writes_reports(model: DictConfig) -> bool:
    """Whether the model of a config writes reports: one of pre-training has no decoder."""
    return "backbone" in model or "text" not in model


def check_writes_reports(model: DictConfig, run: RunFolder) -> None:
    """Refuse the run of a model that writes nothing.

    Raises:
        UserError: with what to do instead.
    """
    if not writes_reports(model):
        raise UserError(
            f"Expected the run of a report generator, but {run.path} is one of pre-training: it has no report decoder and writes "
            f"no reports. hardneg-tasks {run.path} says what its features are worth."
        )


def load_trained_model(
    model: DictConfig, path: Path, *, trust: bool = False, hard_negatives: bool = True, **arguments: Any
) -> Any:
    """The model of a run with the weights and the vocabulary of a checkpoint of hardneg-train.

    Args:
        model: the model's config, with what training started from.
        path: the checkpoint.
        trust: let the checkpoint, which says how its decoder is built, name whatever it likes.
        hard_negatives: False builds the bare host, which is all that writing takes: the objective may want files of its own.
        arguments: more arguments of the model.

    Raises:
        UserError: the file cannot be read, does not fit, or names what is not known to be harmless.
    """
    checkpoint = read_checkpoint(path)
    if trust is not True:
        check_trusted(checkpoint["backbone"], str(path))
    if not hard_negatives and model.get("_target_") == PLUGGED:
        model, checkpoint = _bare_host(model, checkpoint)
    tokenizer = _tokenizer_of(checkpoint, path)
    config = _without_starting_weights(model, checkpoint["backbone"])
    built = instantiate(config, _partial_=True)(tokenizer=tokenizer, **arguments)
    load_weights(built, checkpoint, path)
    return built


def load_released_model(model: DictConfig, path: Path, tokenizer: Tokenizer, **arguments: Any) -> Any:
    """The `ReportGenerator` of a run with the weights of a released `.pth` file of R2Gen or R2GenCMN.

    Args:
        model, path, arguments: as in `load_trained_model`.
        tokenizer: of the data; such a file holds none.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    config = _without_starting_weights(model, {})
    built = instantiate(config, _partial_=True)(tokenizer=tokenizer, **arguments)
    # which itself checks what it gets
    load_released(read_released(path), built.decoder, built.visual, source=str(path))
    return built


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of hardneg-train, of tensors and plain values only.

    Raises:
        UserError: it cannot be read, or is none of ours.
    """
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the reader raise
        raise UserError(f"checkpoint {path} cannot be read: {error}") from error
    wanted = ("state_dict", "tokenizer", "backbone")
    missing = [key for key in wanted if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), dict)]
    if missing:
        raise UserError(f"checkpoint {path} was not written by this hardneg-train: it holds no {', '.join(missing)}.")
    read: dict[str, Any] = checkpoint
    return read


def load_weights(model: pl.LightningModule, checkpoint: dict[str, Any], path: Path) -> None:
    """Load all weights.

    Raises:
        UserError: they do not fit the model.
    """
    # which may put weights back that training keeps apart, and refuses another vocabulary
    model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the run's model: {error}") from error


def _bare_host(model: DictConfig, checkpoint: dict[str, Any]) -> tuple[DictConfig, dict[str, Any]]:
    """The same without the plug-in, which leaves its host as it was."""
    host = {key: value for key, value in model.items() if key not in ("hard_negatives", "report_feature")}
    weights = {
        name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("hard_negatives.")
    }
    return OmegaConf.create({**host, "_target_": HOST}), {**checkpoint, "state_dict": weights}


def _tokenizer_of(checkpoint: dict[str, Any], path: Path) -> Tokenizer:
    try:
        return tokenizer_from_state(checkpoint["tokenizer"])
    except UserError:
        raise
    except Exception as error:  # whatever a state that is none makes the tokenizers raise
        raise UserError(f"checkpoint {path} holds no vocabulary that can be read: {error!r}") from error


def _without_starting_weights(model: DictConfig, backbone: dict[str, Any]) -> DictConfig:
    """The same model built without the weights that training started from: a checkpoint's follow, and files may be gone.

    Args:
        model: the model's config.
        backbone: what the decoder's config must say instead, from the checkpoint.

    Raises:
        UserError: the model has no such parts.
    """
    for part in ("visual", "backbone" if writes_reports(model) else "text"):
        if not isinstance(model.get(part), DictConfig):
            raise UserError(f"Expected the config of one of our models, but that of the run has no model.{part}.")
    visual = dict(model.visual)
    if visual.get("pretrained") or visual.get("weights"):
        # started from trained weights, the extractor was built for three channels
        visual |= {"pretrained": False, "weights": None, "options": {"in_chans": 3, **(visual.get("options") or {})}}
    if not writes_reports(model):
        without = OmegaConf.create({**model, "visual": visual})
        assert isinstance(without, DictConfig)
        return without
    decoder = {**model.backbone, **({"checkpoint": None} if "checkpoint" in model.backbone else {}), **backbone}
    # not merged: settings that a checkpoint replaces are replaced as a whole
    built = OmegaConf.create({**model, "visual": visual, "backbone": decoder})
    assert isinstance(built, DictConfig)
    return built
