"""Checkpoints of hardneg-train, read without running code from them."""

from pathlib import Path
from typing import Any

import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.generator import ReportGenerator


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of hardneg-train, of tensors and plain values only.

    Raises:
        UserError: it cannot be read, or is none of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the reader raise
        raise UserError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "tokenizer"} <= checkpoint.keys():
        raise UserError(f"checkpoint {path} was not written by hardneg-train: it holds no state_dict or no tokenizer.")
    return checkpoint


def load_weights(model: ReportGenerator, checkpoint: dict[str, Any], path: Path) -> None:
    """Load all weights.

    Raises:
        UserError: they do not fit the model.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the run's model: {error}") from error
