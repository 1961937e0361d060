"""Reading the files that R2Gen and R2GenCMN were released as."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.tensor_file import read_tensors

LISTED = 8
"""Maximum number of names that an error lists."""


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a released `.pth` file, read without running code from it.

    Args:
        path: `{"state_dict": ..., ...}` as the released trainers save it, or a bare state dict.

    Raises:
        UserError: If the file does not exist, cannot be read, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"Expected released weights (a .pth file), but {path} is not a file.")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = read_tensors(path)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes the reader raise
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise UserError(
                f"Expected a .pth file, but {path} is damaged or something else: download it again."
            ) from error
        raise UserError(
            f"Expected only tensors and plain values in {path}, but it holds `{foreign[1]}`, and nothing that could run "
            "code is read. If you trust the file, save only its weights where it was made: "
            'torch.save({"state_dict": model.state_dict()}, path).'
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = (
            f"the keys {listed(list(map(str, content)))}" if isinstance(content, Mapping) else type(content).__name__
        )
        raise UserError(
            f"Expected a released checkpoint in {path} (tensors by name, at the top or as `state_dict`), but it holds {found}."
        )
    return {str(name): tensor for name, tensor in state.items()}


def listed(names: Sequence[str]) -> str:
    """The first `LISTED` names, as part of an error message."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _numpy_scalars() -> list[Any]:
    """The globals of a pickled `numpy.float64`: the released trainers store their best score as one."""
    scalar = numpy.float64(0).__reduce__()[0]  # a function whose module numpy 2 renamed
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        numpy.dtype,
        type(numpy.dtype(numpy.float64)),
    ]
