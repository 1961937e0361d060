"""The model of a run, made for nothing but writing reports."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.checkpoint import check_writes_reports, find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder


def load_inference_model(path: Path, checkpoint: str, *, trust: bool, image_size: int | None) -> tuple[Any, int]:
    """The `ReportGenerator` of a run without what only scores need, and the size of its images in pixels.

    Args:
        path: the run folder, or a .ckpt file in its `checkpoints/`.
        checkpoint: "best", or the last where there is no best; "last"; or a path.
        trust: build whatever the config names.
        image_size: pixels; None: what the config says.

    Raises:
        UserError: there is no such run or checkpoint, it cannot be read, is not to be trusted, or has no decoder.
    """
    if path.suffix == ".ckpt":
        path, checkpoint = path.absolute().parent.parent, str(path)
    run = RunFolder.existing(path)
    config = run.read_config(trust=trust)
    check_writes_reports(config.model, run)
    size = image_size if image_size is not None else image_size_of(config, run.config)
    if size < 1:
        raise UserError(f"Expected `image_size` of at least 1 pixel, but got {size}.")
    if checkpoint == "best" and not run.best.is_file():
        checkpoint = "last"
    file = find_checkpoint(run, checkpoint)
    if file.suffix == ".pth":
        raise UserError(
            f"{file} holds no vocabulary to write with: expected a .ckpt file. hardneg-evaluate reads a released .pth file "
            "together with the data."
        )
    model = OmegaConf.create({**config.model, "caption": None, "compile": False})
    return load_trained_model(model, file, trust=trust, hard_negatives=False), size


def image_size_of(config: DictConfig, file: Path) -> int:
    """Height and width in pixels that the model of a run saw: the crop of its data, or where it has none its size.

    Raises:
        UserError: its data has neither.
    """
    source = OmegaConf.select(config, "data.datamodule.source")
    for key in ("crop", "size"):
        size = source.get(key) if isinstance(source, DictConfig) else None
        if isinstance(size, int) and not isinstance(size, bool):
            return size
    raise UserError(
        f"{file}: data.datamodule.source has neither `crop` nor `size`, so it does not tell the size of the images that the "
        "model saw: add image_size=..., in pixels."
    )
