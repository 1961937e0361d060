"""Names of the tensors of the released R2Gen and R2GenCMN, paired with ours.

One table per architecture, for loading and for export. A released name denotes a view of one of our tensors, as R2Gen's conditional
norms are fused here.
"""

from collections.abc import Mapping
from itertools import product
from types import EllipsisType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.errors import UserError

EXTRACTOR = "visual_extractor."
"""Prefix of the names of the visual extractor."""

# Released module or parameter, ours; `{}` is the index of a layer.
_COMMON = {
    "att_embed.0": "project.0",
    "logit": "output",
    "model.tgt_embed.0.lut": "embedding",
    "model.encoder.layers.{}.self_attn": "encoder.{}.self_attention",
    "model.encoder.layers.{}.feed_forward.w_1": "encoder.{}.feedforward.0",
    "model.encoder.layers.{}.feed_forward.w_2": "encoder.{}.feedforward.3",
    "model.encoder.layers.{}.sublayer.0.norm": "encoder.{}.self_norm",
    "model.encoder.layers.{}.sublayer.1.norm": "encoder.{}.feedforward_norm",
    "model.encoder.norm": "encoder_norm",
    "model.decoder.layers.{}.self_attn": "decoder.{}.self_attention",
    "model.decoder.layers.{}.src_attn": "decoder.{}.image_attention",
    "model.decoder.layers.{}.feed_forward.w_1": "decoder.{}.feedforward.0",
    "model.decoder.layers.{}.feed_forward.w_2": "decoder.{}.feedforward.3",
    "model.decoder.norm": "decoder_norm",
}
_R2GEN = {
    **_COMMON,
    "model.rm.attn": "memory.attention",
    "model.rm.mlp": "memory.mlp",
    "model.rm.W": "memory.word_gates",
    "model.rm.U": "memory.memory_gates",
}
_R2GENCMN = {
    **_COMMON,
    **{f"model.decoder.layers.{{}}.sublayer.{index}.norm": f"norms.{{}}.{index}" for index in range(3)},
    "memory_matrix": "memory.matrix",
    # one module under two names
    **{
        f"{cmn}.linears.{index}": f"memory.{projection}"
        for cmn in ("cmn", "model.cmn")
        for index, projection in enumerate(("query", "key", "value", "output"))
    },
}
# Within the modules above.
_PROJECTIONS = {"query": "linears.0", "key": "linears.1", "value": "linears.2", "output": "linears.3"}
_R2GEN_LEAVES = {**_PROJECTIONS, "gain": "gamma", "shift": "beta"}
_R2GENCMN_LEAVES = {**_PROJECTIONS, "gain": "a_2", "shift": "b_2"}

# The children of a torchvision ResNet by number; 2 and 3 are its ReLU and its pooling.
_RESNET = {
    "model.0": "conv1",
    "model.1": "bn1",
    **{f"model.{3 + stage}": f"layer{stage}" for stage in range(1, 5)},
}


class Name(NamedTuple):
    """A released name, and the part of one of our tensors that it denotes."""

    released: str
    """Below `encoder_decoder`, or below `visual_extractor`."""
    ours: str
    """In the state dict of the decoder, or of the extractor."""
    part: int | slice | EllipsisType = ...
    """`tensor[part]` is a view; `...` is the whole tensor."""


def decoder_names(decoder: R2Gen | R2GenCMN) -> list[Name]:
    """Every released name below `encoder_decoder` except position tables; together they cover every parameter.

    Raises:
        UserError: If the decoder is neither R2Gen nor R2GenCMN.
    """
    if isinstance(decoder, R2Gen):
        layers = len(decoder.decoder)
        return _expanded(decoder, _R2GEN, _R2GEN_LEAVES, layers) + _conditional_names(layers, decoder.width)
    if isinstance(decoder, R2GenCMN):
        return _expanded(decoder, _R2GENCMN, _R2GENCMN_LEAVES, len(decoder.decoder))
    raise UserError(
        f"Expected R2Gen or R2GenCMN, as released weights are of those, but got {type(decoder).__name__}. "
        "hardneg-predict and ReportGenerator.from_run read every run as it is; for a file in the released layout train with "
        "backbone=r2gen or backbone=r2gencmn."
    )


def resnet_names(network: Any, mean: Tensor, std: Tensor) -> list[Name]:
    """Every released name below `visual_extractor`; together they cover every parameter and buffer.

    Args:
        network: A timm ResNet that returns feature maps.
        mean, std: Of the normalisation, on the scale 0 to 255.

    Raises:
        UserError: If it is not a plain torchvision ResNet on 3 channels with ImageNet normalisation.
    """
    found = _difference(network, mean, std)
    if found is not None:
        raise UserError(
            "Expected the visual extractor to be a torchvision ResNet as released (resnet18 to resnet152, up to its last stage, 3 "
            f"channels with ImageNet normalisation), but got {found}."
        )
    return _expanded(network, _RESNET, {}, 0)


def _expanded(module: nn.Module, table: Mapping[str, str], leaves: Mapping[str, str], layers: int) -> list[Name]:
    """A table of names, expanded to each layer and each tensor of a module.

    Args:
        module: Ours.
        table: From released names of modules or parameters to ours; `{}` is the index of a layer.
        leaves: From our names within these modules to the released ones.
        layers: Number of layers.
    """
    names = []
    for released, ours in table.items():
        for layer in range(layers) if "{}" in ours else (0,):
            prefix = ours.format(layer)
            for name in module.state_dict():
                if name == prefix or name.startswith(f"{prefix}."):
                    leaf = ".".join(leaves.get(part, part) for part in name[len(prefix) :].split("."))
                    names.append(Name(released.format(layer) + leaf, name))
    return names


def _conditional_names(layers: int, width: int) -> list[Name]:
    """Names of R2Gen's conditional norms, which `ConditionalNorms` fuses in five tensors."""
    norms = [f"model.decoder.layers.{layer}.sublayer.{index}.norm" for layer in range(layers) for index in range(3)]
    names = []
    for index, (norm, affine) in enumerate(product(norms, ("gamma", "beta"))):
        rows = slice(index * width, (index + 1) * width)
        names += [
            Name(f"{norm}.{affine}", "norms.affine", rows),
            Name(f"{norm}.mlp_{affine}.0.weight", "norms.first.weight", rows),
            Name(f"{norm}.mlp_{affine}.0.bias", "norms.first.bias", rows),
            Name(f"{norm}.mlp_{affine}.2.weight", "norms.second_weight", index),
            Name(f"{norm}.mlp_{affine}.2.bias", "norms.second_bias", rows),
        ]
    return names


def _difference(network: Any, mean: Tensor, std: Tensor) -> str | None:
    """How a network differs from a torchvision ResNet in what names and shapes do not show; None: not at all."""
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
