"""Patch features of chest X-rays from any vision encoder of Hugging Face transformers, such as ViT, DINOv2 (RAD-DINO) or Swin."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.backbones.huggingface_models import config_from_values, config_of, quietly
from hardneg_plugin.backbones.visual_features import ViewEncoder
from hardneg_plugin.errors import UserError, first_line

# transformers takes seconds to import: functions import what they need of it.

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of a model that comes without an image processor, as transformers has it."""


class TransformersVisualExtractor(ViewEncoder):
    """A vision encoder of transformers; its patch tokens, without class and register tokens, are the patches.

    Images of any size whose sides are multiples of the patches' are taken, where the model interpolates its positions. The gray
    image is repeated for a model of three channels. Parameters that no patch depends on, such as a mask token, are not trained.

    Args:
        name_or_path: A name on the hub, such as `microsoft/rad-dino`, or a folder with a `config.json` and weights.
        config: Without `name_or_path`: `model_type` and the values of its config that differ from the defaults, for a network with
            random weights.
        pretrained: Start from the weights of `name_or_path`; False reads its config only.
        mean, std: As of `ViewEncoder`; None: those of the model's image processor, or 0.5 without one.
        frozen: As of `ViewEncoder`.

    Raises:
        UserError: If the model cannot be built or loaded, or gives no patches.

    >>> config = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    >>> visual = TransformersVisualExtractor(config=config)
    >>> features = visual(torch.zeros(2, 1, 1, 28, 56, dtype=torch.uint8))
    >>> features.patches.shape, features.grid
    (torch.Size([2, 8, 8]), (2, 4))
    """

    def __init__(
        self,
        *,
        name_or_path: str | None = None,
        config: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        frozen: bool = False,
    ) -> None:
        with quietly():
            described = config_from_values(config) if name_or_path is None else config_of(name_or_path)
            described = getattr(described, "vision_config", described)  # of a model of images and texts
            network = _load(name_or_path, described) if name_or_path is not None and pretrained else _build(described)
            known = (HALF, HALF) if name_or_path is None else _range_of(name_or_path)
        channels = getattr(described, "num_channels", 3)
        ends = [_for_channels(values, channels) for values in (mean or known[0], std or known[1])]
        super().__init__(network, _width(described), mean=ends[0], std=ends[1], frozen=frozen)
        self._channels, self._stride = channels, _stride(described)
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
        self._try(getattr(described, "image_size", None))

    def feature_map(self, images: Tensor) -> Tensor:
        """The patch tokens row by row.

        Raises:
            ValueError: the sides are no multiples of the patches', or the model gives other tokens.
        """
        height, width = images.shape[-2:]
        if height % self._stride or width % self._stride:
            raise ValueError(
                f"Expected images with sides that are multiples of {self._stride}, the patches of the visual extractor, but got "
                f"{height} x {width}."
            )
        given = {"interpolate_pos_encoding": True} if self._interpolates else {}
        tokens: Tensor = self.network(images.expand(-1, self._channels, -1, -1), **given).last_hidden_state
        if tokens.ndim == 4:  # of a convolutional network, (N, C, H, W)
            return tokens.permute(0, 2, 3, 1)
        rows, columns = height // self._stride, width // self._stride
        if tokens.shape[1] < rows * columns:
            raise ValueError(
                f"Expected {rows} x {columns} patches of images of {height} x {width}, but the visual extractor gives "
                f"{tokens.shape[1]} tokens."
            )
        patches: Tensor = tokens[:, tokens.shape[1] - rows * columns :].unflatten(1, (rows, columns))
        return patches

    def _try(self, size: Any) -> None:
        """See that the model gives patches, and freeze parameters that none goes through, such as a mask token."""
        sides = [size, size] if isinstance(size, int) else list(size or [32 * self._stride] * 2)
        is_training = self.network.training
        self.network.eval()
        try:
            with torch.set_grad_enabled(not self.frozen):
                patches = self.feature_map(torch.zeros(1, len(self.mean), *sides))
                if not self.frozen:
                    patches.square().sum().backward()
        except Exception as error:  # of a model of texts, each in its own way
            name = type(self.network).__name__
            raise UserError(
                f"visual: expected a vision encoder, but {name} gives no patches of an image ({first_line(error)})."
            ) from error
        for parameter in self.network.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
            parameter.grad = None
        self.network.train(is_training)


def _build(config: Any) -> Any:
    from transformers import AutoModel

    try:
        return _without_pooler(AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False))
    except Exception as error:  # values are checked by each model in its own way
        raise UserError(
            f"visual.config: a {config.model_type} cannot be built as a vision encoder: {first_line(error)}."
        ) from error


def _load(name_or_path: str, config: Any) -> Any:
    from transformers import AutoModel

    try:
        model, report = AutoModel.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # the hub and the readers of its files raise errors of many kinds
        raise UserError(
            f"Expected a vision encoder of Hugging Face under {name_or_path!r}, but it could not be loaded ({first_line(error)}). "
            "Give a folder that holds a config.json and weights, or a name that is on the hub or in its local cache."
        ) from error
    if missing := [name for name in report["missing_keys"] if "pooler" not in name]:
        raise UserError(
            f"Expected all weights of {name_or_path!r}, but {len(missing)} are missing, {missing[0]} first."
        )
    return _without_pooler(model)


def _without_pooler(model: Any) -> Any:
    """The model without the layer behind its class token, which no patch goes through: it would get no gradient."""
    if getattr(model, "pooler", None) is not None and any(True for _ in model.pooler.parameters()):
        model.pooler = None
    return model


def _range_of(name_or_path: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the image processor that comes with a model."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:
        if Path(name_or_path).is_dir() and not Path(name_or_path, "preprocessor_config.json").is_file():
            return HALF, HALF
        raise UserError(
            f"Expected the image processor of {name_or_path!r}, which says what range of values it was trained on, but it could "
            f"not be read ({first_line(error)}). Set visual.mean and visual.std."
        ) from error
    return processor.image_mean, processor.image_std


def _for_channels(values: Sequence[float], channels: int) -> list[float]:
    values = list(values)
    return values if channels == len(values) else [sum(values) / len(values)]


def _width(config: Any) -> int:
    """The channels of the last layer."""
    if (sizes := getattr(config, "hidden_sizes", None)) is not None:
        return int(sizes[-1])
    return int(config.hidden_size)


def _stride(config: Any) -> int:
    """The side of a patch in pixels, after the last merging of a hierarchical model."""
    size = getattr(config, "patch_size", None)
    if size is None:
        return 1
    size = size if isinstance(size, int) else size[0]
    depths = getattr(config, "depths", None)
    merged: int = 2 ** (len(depths) - 1) if depths else 1
    return int(size) * merged
