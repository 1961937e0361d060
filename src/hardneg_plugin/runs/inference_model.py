"""The model of a run for writing reports alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.checkpoint import (
    check_writes_reports,
    find_checkpoint,
    load_trained_model,
    without_starting_weights,
)
from hardneg_plugin.runs.folder import RunFolder

PARTS = ("visual", "backbone", "grounding", "channels_last")
"""What of a model's config a generator is rebuilt from."""


@dataclass(frozen=True)
class InferenceModel:
    """The `ReportGenerator` of a run without what only scores need, and where it is from."""

    model: Any
    image_size: int
    """Of its images, in pixels."""
    run: RunFolder
    config: DictConfig
    """Of the run."""
    checkpoint: Path

    def settings(self) -> dict[str, Any]:
        """The config from which it is rebuilt without the files of the run and those that training started from: plain values.

        Raises:
            UserError: the decoder cannot be rebuilt like this.
        """
        config = without_starting_weights(self.config.model, self.model.decoder.complete_settings)
        values: Any = OmegaConf.to_container(config, resolve=True)
        if values["visual"].get("name_or_path") is not None:  # of transformers, whose config it was built from
            values["visual"] |= {"name_or_path": None, "config": self.model.visual.network.config.to_dict()}
        return {name: values[name] for name in PARTS if name in values}


def load_inference_model(path: Path, checkpoint: str, *, trust: bool, image_size: int | None) -> InferenceModel:
    """Load the `ReportGenerator` of a run without what only scores need.

    Args:
        path: the run folder, or a .ckpt file in its `checkpoints/`.
        checkpoint: "best", which means "last" where there is none; "last"; or a path.
        trust: build any class that the run names.
        image_size: of the images, in pixels; None takes that of the config.

    Raises:
        UserError: there is no such run or checkpoint; it cannot be read, is not trusted, or has no decoder.
    """
    if path.suffix == ".ckpt":
        path, checkpoint = path.absolute().parent.parent, str(path)
    run = RunFolder.existing(path)
    config = run.read_config(trust=trust)
    check_writes_reports(config.model, run)
    size = image_size if image_size is not None else image_size_of(config, run.config)
    if size < 1:
        raise UserError(f"Expected `image_size` in pixels, a positive integer, but got {size}.")
    if checkpoint == "best" and not run.best.is_file():
        checkpoint = "last"
    file = find_checkpoint(run, checkpoint)
    if file.suffix == ".pth":
        raise UserError(
            f"Expected a .ckpt file, but {file} holds no vocabulary. hardneg-evaluate reads a released .pth file together with "
            "the data."
        )
    without_scores = OmegaConf.create({**config.model, "caption": None, "compile": False})
    model = load_trained_model(without_scores, file, trust=trust, hard_negatives=False)
    return InferenceModel(model, size, run, config, file)


def image_size_of(config: DictConfig, file: Path) -> int:
    """Height and width in pixels of the images of a run: the crop of its data, or else their size.

    Args:
        config: that of the run.
        file: its file, for the message.

    Raises:
        UserError: the data has neither.
    """
    source = OmegaConf.select(config, "data.datamodule.source")
    for key in ("crop", "size"):
        size = source.get(key) if isinstance(source, DictConfig) else None
        if isinstance(size, int) and not isinstance(size, bool):
            return size
    raise UserError(
        f"{file}: data.datamodule.source has neither `crop` nor `size`, so the size of its images is not known: add "
        "image_size=..., in pixels."
    )
