"""Checkpoints of hardneg-train and released ones, read without running code from them, and the models they make."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps.run_folder import RunFolder
from hardneg_plugin.backbones.official import load_released
from hardneg_plugin.backbones.released import read_released
from hardneg_plugin.data.tokenizer import Tokenizer, tokenizer_from_state
from hardneg_plugin.errors import UserError
from hardneg_plugin.generator import ReportGenerator


def checkpoint_of(run: RunFolder, name: str) -> Path:
    """The checkpoint file that a name means: `best`, `last`, or a path.

    Raises:
        UserError: it is not there.
    """
    path = {"best": run.best, "last": run.last}.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"checkpoint: expected best, last, a .ckpt or a released .pth file, but {path} is no file.")
    return path


def trained_model(model: DictConfig, path: Path, **arguments: Any) -> ReportGenerator:
    """The model of a run with the weights and the vocabulary of a checkpoint of hardneg-train.

    Args:
        model: the model's config, with what training started from.
        path: the checkpoint.
        arguments: more arguments of the model.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    checkpoint = read_checkpoint(path)
    tokenizer = tokenizer_from_state(checkpoint["tokenizer"])
    config = _without_starting_weights(model, checkpoint["backbone"])
    built: ReportGenerator = instantiate(config, _partial_=True)(tokenizer=tokenizer, **arguments)
    load_weights(built, checkpoint, path)
    return built


def released_model(model: DictConfig, path: Path, tokenizer: Tokenizer, **arguments: Any) -> ReportGenerator:
    """The model of a run with the weights of a released `.pth` file of R2Gen or R2GenCMN.

    Args:
        model, path, arguments: as in `trained_model`.
        tokenizer: of the data; such a file holds none.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    config = _without_starting_weights(model, {})
    built: ReportGenerator = instantiate(config, _partial_=True)(tokenizer=tokenizer, **arguments)
    # which itself checks what it gets
    load_released(read_released(path), built.decoder, built.visual, source=str(path))  # type: ignore[arg-type]
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
    missing = [key for key in wanted if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise UserError(f"checkpoint {path} was not written by this hardneg-train: it holds no {', '.join(missing)}.")
    read: dict[str, Any] = checkpoint
    return read


def load_weights(model: ReportGenerator, checkpoint: dict[str, Any], path: Path) -> None:
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


def _without_starting_weights(model: DictConfig, backbone: dict[str, Any]) -> DictConfig:
    """The same model built without the weights that training started from: a checkpoint's follow, and files may be gone.

    Args:
        model: the model's config.
        backbone: what the decoder's config must say instead, from the checkpoint.
    """
    visual = dict(model.visual)
    if visual.get("pretrained") or visual.get("weights"):
        # started from trained weights, the extractor was built for three channels
        visual |= {"pretrained": False, "weights": None, "options": {"in_chans": 3, **(visual.get("options") or {})}}
    decoder = {**model.backbone, **({"checkpoint": None} if "checkpoint" in model.backbone else {}), **backbone}
    # not merged: settings that a checkpoint replaces are replaced as a whole
    built = OmegaConf.create({**model, "visual": visual, "backbone": decoder})
    assert isinstance(built, DictConfig)
    return built
