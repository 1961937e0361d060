"""The files that R2Gen and R2GenCMN were released as: reading them, and the names of the ResNet in them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError

EXTRACTOR = "visual_extractor."
"""What the names of the visual extractor begin with."""
LISTED = 8
"""How many names of a kind an error lists."""

# The children of a torchvision ResNet by number; 2 and 3 are its ReLU and its pooling.
_RESNET = {
    "model.0": "conv1",
    "model.1": "bn1",
    **{f"model.{3 + stage}": f"layer{stage}" for stage in range(1, 5)},
}


class Name(NamedTuple):
    """A released name and the part of one of our tensors that it stands for."""

    released: str
    """Below `encoder_decoder`, or below `visual_extractor`."""
    ours: str
    """In the state dict of the decoder, or of the extractor."""
    part: int | slice | EllipsisType = ...
    """`tensor[part]` is a view; `...` is all of it."""


def read_released(path: Path) -> dict[str, Tensor]:
    """The state dict in a released `.pth` file, read without running code from it.

    Args:
        path: `{"state_dict": ..., ...}` as the released trainers save it, or a bare state dict.

    Raises:
        UserError: If there is no such file, it cannot be read, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"Expected released weights (a .pth file), but {path} is no file.")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the reader raise
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise UserError(f"Expected a .pth file, but {path} is none, or damaged: get it once more.") from error
        raise UserError(
            f"Expected only tensors and plain values in {path}, but it holds `{foreign[1]}`, and nothing that could run "
            "code is read. If you trust the file, save its weights alone where it was made: "
            'torch.save({"state_dict": model.state_dict()}, path).'
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = (
            f"the keys {listed(list(map(str, content)))}" if isinstance(content, Mapping) else type(content).__name__
        )
        raise UserError(
            f"Expected a released checkpoint in {path} (tensors by name, alone or as `state_dict`), but it holds {found}."
        )
    return {str(name): tensor for name, tensor in state.items()}


def resnet_names(network: Any, mean: Tensor, std: Tensor) -> list[Name]:
    """Every released name below `visual_extractor`; together they stand for every parameter and buffer.

    Args:
        network: A timm ResNet that returns feature maps.
        mean, std: What its images, of 0 to 255, are normalised by.

    Raises:
        UserError: If it is no plain ResNet as torchvision has it, on 3 channels normalised as for ImageNet.
    """
    found = _difference(network, mean, std)
    if found is not None:
        raise UserError(
            "Expected the visual extractor to be a ResNet as torchvision has it (resnet18 to resnet152, to its last "
            f"stage, 3 channels normalised as for ImageNet), as released weights are of that, but got {found}."
        )
    return spelt_out(network, _RESNET, {}, 0)


def spelt_out(module: nn.Module, table: Mapping[str, str], leaves: Mapping[str, str], layers: int) -> list[Name]:
    """A table of names spelt out for each layer and each tensor of a module."""
    names = []
    for released, ours in table.items():
        for layer in range(layers) if "{}" in ours else (0,):
            prefix = ours.format(layer)
            for name in module.state_dict():
                if name == prefix or name.startswith(f"{prefix}."):
                    leaf = ".".join(leaves.get(part, part) for part in name[len(prefix) :].split("."))
                    names.append(Name(released.format(layer) + leaf, name))
    return names


def listed(names: Sequence[str]) -> str:
    """The first few names, as an error lists them."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _difference(network: Any, mean: Tensor, std: Tensor) -> str | None:
    """In what a network differs from a torchvision ResNet that its names and shapes would not show."""
    absent = [name for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4") if not hasattr(network, name)]
    if absent:
        return f"one without {', '.join(absent)}"
    leaves = {type(module) for module in network.modules() if next(module.children(), None) is None}
    foreign = leaves - {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Identity}
    if foreign:
        return f"one with {', '.join(sorted(kind.__name__ for kind in foreign))}"
    if not isinstance(network.conv1, nn.Conv2d):
        return "one that begins with several convolutions"
    if network.conv1.in_channels != 3:
        return f"{network.conv1.in_channels} channel(s): set its `options` to {{in_chans: 3}}"
    if network.feature_info.reduction()[-1] != 32:
        return f"one of stride {network.feature_info.reduction()[-1]} instead of 32"
    mean, std = mean.flatten().cpu() / 255, std.flatten().cpu() / 255
    if not (mean.allclose(torch.tensor([0.485, 0.456, 0.406])) and std.allclose(torch.tensor([0.229, 0.224, 0.225]))):
        return f"one normalised by mean {mean.tolist()} and deviation {std.tolist()}"
    return None


def _numpy_scalars() -> list[Any]:
    """What a `numpy.float64` in a pickle needs: the released trainers keep their best score as one."""
    scalar = numpy.float64(0).__reduce__()[0]  # a function whose module numpy 2 renamed
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        numpy.dtype,
        type(numpy.dtype(numpy.float64)),
    ]
