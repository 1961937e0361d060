"""How checkpoints reach the disk: whole, or not at all."""

import glob
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from hardneg_plugin.files import whole_file


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, waits for the disk, and renames: a kill at any moment leaves the checkpoint before.

    Lightning's own writes into the system's temporary folder and moves, which between two file systems is a copy that a kill
    cuts short, over the only checkpoint there is.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace the file at `path`, a local one; `storage_options` are not used."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*"):  # by a kill: a run has one writer
            left.unlink()
        with whole_file(path) as file:
            torch.save(checkpoint, file)
