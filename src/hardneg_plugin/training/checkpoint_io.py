"""Atomic writing of checkpoints."""

import glob
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from hardneg_plugin.files import whole_file


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, and renames: a kill at any moment leaves the previous checkpoint.

    Lightning writes into the temporary folder of the system and moves the file, which between file systems is a copy: a kill may
    cut it short and destroy the only checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: as in Lightning.
            path: of a local file, which is replaced.
            storage_options: ignored.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*"):  # left by a kill, as a run has one writer
            left.unlink()
        with whole_file(path) as file:
            torch.save(checkpoint, file)
