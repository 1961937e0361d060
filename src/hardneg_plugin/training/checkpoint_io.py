"""Atomic writing of checkpoints, all of them within the run folder."""

import glob
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import unfinished_prefix, whole_file
from hardneg_plugin.tensor_file import check_tensor_file, check_values


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, and renames: a kill at any moment leaves the previous checkpoint.

    Lightning writes into the temporary folder of the system and moves the file, which between file systems is a copy: a kill may
    cut it short and destroy the only checkpoint.

    Args:
        within: the folder outside of which nothing is written or removed; None: anywhere. Names of earlier checkpoints come from
            the checkpoint that a run is resumed from, which may be someone else's.
    """

    def __init__(self, within: str | Path | None = None) -> None:
        self.within = None if within is None else Path(within).resolve()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: as in Lightning.
            path: of a local file, which is replaced.
            storage_options: ignored.

        Raises:
            UserError: the path is outside of the folder.
        """
        path = self._checked(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(unfinished_prefix(path))}*"):  # by a kill, as a run has one writer
            left.unlink()
        with whole_file(path) as file:
            torch.save(checkpoint, file)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint.

        Raises:
            UserError: the path is outside of the folder.
        """
        super().remove_checkpoint(self._checked(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, location: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint that becomes no larger than it is: tensors and plain values only.

        Args:
            path: of a file.
            map_location: as in Lightning.
            weights_only: not read, and neither is TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.

        Raises:
            UserError: see `check_tensor_file` and `check_values`.
        """
        check_tensor_file(Path(path))
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        check_values(checkpoint, Path(path))
        return checkpoint

    def _checked(self, path: str | Path) -> Path:
        path = Path(path)
        if self.within is not None and self.within not in path.resolve().parents:
            raise UserError(f"Expected a checkpoint in {self.within}, but got {str(path)!r}: it is left as it is.")
        return path
