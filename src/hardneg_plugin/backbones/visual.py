"""Patch features of chest X-rays from any timm model."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from hardneg_plugin.backbones.released import listed, read_released
from hardneg_plugin.backbones.released_names import EXTRACTOR, resnet_names
from hardneg_plugin.errors import UserError


class VisualFeatures(NamedTuple):
    """Features of B studies with V views of P patches."""

    patches: Tensor
    """`(B, V * P, width)`, view by view; zero where a view is missing."""
    patch_mask: Tensor
    """`(B, V * P)` bool, False where a view is missing."""
    pooled: Tensor
    """`(B, width)`: mean over the patches of existing views; zero for a study without views."""
    grid: tuple[int, int]
    """Rows and columns of the P patches of a view, which lie row by row."""
    entities: Tensor | None = None
    """`(B, Q, ...)`: features of the entity of each prompt, from a `GroundedVisual`."""
    projected_entities: Tensor | None = None
    """`(B, Q, width)`: the same in the width of the patches, for a report decoder that attends to them."""

    @property
    def context(self) -> Tensor:
        """What the report decoder attends to, `(B, N, width)`: the patches, then the projected entities."""
        if self.projected_entities is None:
            return self.patches
        return torch.cat([self.patches, self.projected_entities], dim=1)

    @property
    def context_mask(self) -> Tensor:
        """`(B, N)` bool; False throughout for a study without views."""
        if self.projected_entities is None:
            return self.patch_mask
        has_views = self.patch_mask.any(1, keepdim=True)
        return torch.cat([self.patch_mask, has_views.expand(-1, self.projected_entities.shape[1])], dim=1)

    def on_patches(self, attention: Tensor) -> Tensor:
        """Attention over the context `(..., N)` as maps `(..., V, rows, columns)` over the patches, of sum 1."""
        of_patches = attention[..., : self.patches.shape[1]]
        if self.projected_entities is not None:
            of_patches = of_patches / of_patches.sum(-1, keepdim=True).clamp(min=torch.finfo(of_patches.dtype).tiny)
        maps: Tensor = of_patches.unflatten(-1, (-1, *self.grid))
        return maps


class VisualExtractor(nn.Module):
    """A timm model without its head, run on existing views only.

    With trained weights the network takes 3 channels (the gray one three times), else 1, unless `options={"in_chans": ...}` says
    otherwise. For 1 channel the model's mean and standard deviation are averaged. The feature map of a vision transformer is the
    one before its last norm, as in timm's feature wrapper. `.to(memory_format=torch.channels_last)` is supported.

    Args:
        name: A timm model, with or without a weights tag: `resnet101.a1_in1k`.
        pretrained: Download timm's weights.
        weights: A local `.safetensors` or `.pth` file instead of a download: weights of the whole model under timm's names (a head
            is ignored), or a released R2Gen or R2GenCMN with its ResNet.
        out_index: Index of the model's feature map; -1 is the last. Later layers are removed.
        options: Further arguments of `timm.create_model`, such as `img_size` or a ResNet's `channels`.

    Raises:
        UserError: If timm does not know or cannot build the model, or weights are missing or do not fit.

    >>> visual = VisualExtractor("resnet10t")
    >>> features = visual(torch.zeros(2, 1, 1, 64, 64, dtype=torch.uint8))
    >>> features.patches.shape, features.grid
    (torch.Size([2, 4, 512]), (2, 2))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        out_index: int = -1,
        options: Mapping[str, Any] = {},
    ) -> None:
        super().__init__()
        if ":" not in name and not timm.is_model(name.partition(".")[0]):
            near = ", ".join(get_close_matches(name.partition(".")[0], timm.list_models(), n=5, cutoff=0.4))
            raise UserError(f"Expected the name of a timm model, but got `{name}`. Nearest: {near or 'none'}.")
        is_trained = pretrained or weights is not None
        options = {"in_chans": 3 if is_trained else 1, **options}
        file = None if weights is None else Path(weights)
        released = None if file is None else _released_weights(file)
        network = _build(name, pretrained and file is None, file if released is None else None, out_index, options)
        self.network = network
        self.width: int = network.feature_info.channels()[-1]
        mean, std = (torch.tensor(network.pretrained_cfg[key]) for key in ("mean", "std"))
        if options["in_chans"] == 1:
            mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
        # on the scale of the pixels, so that one subtraction and one division suffice
        self.register_buffer("mean", 255 * mean[:, None, None], persistent=False)
        self.register_buffer("std", 255 * std[:, None, None], persistent=False)
        if released is not None:
            names = {key.released: key.ours for key in resnet_names(network, self.mean, self.std)}
            try:
                network.load_state_dict({names.get(key, key): value for key, value in released.items()})
            except RuntimeError as error:
                raise UserError(f"The visual extractor in {file} does not fit `{name}`: {_one_line(error)}") from error

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> VisualFeatures:
        """Extract features of existing views.

        Args:
            images: `(B, V, 1, H, W)`, uint8, or float on the same scale (0 is black, 255 white, not 1).
            view_mask: `(B, V)` bool, True where there is a view; None: all are there. Missing views are not run, so batch
                statistics never see them.

        Raises:
            ValueError: If the shapes do not fit, or the batch has no view.
        """
        if images.dim() != 5 or images.shape[2] != 1:
            raise ValueError(f"Expected `images` (B, V, 1, H, W), but got {tuple(images.shape)}.")
        studies, views = images.shape[:2]
        if view_mask is None:
            view_mask = torch.ones(studies, views, dtype=torch.bool, device=images.device)
        if view_mask.shape != (studies, views):
            raise ValueError(f"Expected `view_mask` {(studies, views)}, but got {tuple(view_mask.shape)}.")
        is_view = view_mask.flatten()
        existing = images.flatten(0, 1)[is_view]
        if not len(existing):
            raise ValueError("Expected at least one view in the batch, but `view_mask` is False throughout.")

        (feature_map,) = self.network((existing.to(self.mean.dtype) - self.mean) / self.std)
        # hierarchical transformers keep (N, H, W, C), which timm's wrapper tells
        if getattr(self.network, "output_fmt", "NCHW") == "NCHW":
            feature_map = feature_map.permute(0, 2, 3, 1)
        features = feature_map.flatten(1, 2)
        patches = features.new_zeros(len(is_view), *features.shape[1:])
        patches[is_view] = features
        patches = patches.unflatten(0, (studies, views)).flatten(1, 2)
        patch_mask = view_mask.repeat_interleave(features.shape[1], dim=1)
        count = patch_mask.sum(1, keepdim=True).clamp(min=1)
        return VisualFeatures(patches, patch_mask, patches.sum(1) / count, (feature_map.shape[1], feature_map.shape[2]))


def _released_weights(path: Path) -> dict[str, Tensor] | None:
    """Weights below `visual_extractor` in a released file; None for any other file."""
    if path.suffix == ".safetensors" or not path.is_file():
        return None
    try:
        read = read_released(path)
    except UserError:
        return None  # timm reads more kinds of files, and explains its errors
    state = {key.removeprefix("module."): value for key, value in read.items()}
    return {key.removeprefix(EXTRACTOR): value for key, value in state.items() if key.startswith(EXTRACTOR)} or None


def _build(name: str, pretrained: bool, weights: Path | None, out_index: int, options: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {
        **options,
        "pretrained": pretrained or weights is not None,
        "features_only": True,
        "out_indices": (out_index,),
    }
    if weights is not None:
        names = _weight_names(weights)
        arguments["pretrained_cfg_overlay"] = {"file": str(weights), "custom_load": False}
    try:
        network = _create(name, arguments)
        if not isinstance(network, nn.ModuleDict):
            # EfficientNet and relatives come in a wrapper that computes more than the map
            network = _create(name, {**arguments, "feature_cls": "getter"})
    except Exception as error:  # timm, torch and the hub raise errors of many kinds
        raise UserError(_explain(error, name, pretrained, weights, out_index, options)) from error
    if weights is not None:
        # timm drops the head and loads with strict=False: weights that the file lacks would stay random.
        # wrappers write model.a.b or a_b for a.b
        wanted = [key.removeprefix("model.") for key in network.state_dict() if "num_batches_tracked" not in key]
        missing = [key for key in wanted if key.replace(".", "_") not in names]
        if missing:
            raise UserError(
                f"Expected all {len(wanted)} tensors of `{name}` in {weights}, but {len(missing)} are missing: "
                f"{listed(missing)}."
            )
    return network


def _create(name: str, arguments: Mapping[str, Any]) -> Any:
    try:
        # lets a transformer take any image size; only transformers have the argument
        return timm.create_model(name, **{"dynamic_img_size": True, **arguments})
    except TypeError:
        return timm.create_model(name, **arguments)


def _weight_names(path: Path) -> set[str]:
    if not path.is_file():
        raise UserError(f"Expected `weights` to be a .safetensors or .pth file, but {path} is not a file.")
    try:
        return {key.replace(".", "_") for key in load_state_dict(str(path), weights_only=True)}
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise UserError(f"Expected tensors by name in {path} (`weights`), but got: {_one_line(error)}") from error


def _explain(
    error: Exception, name: str, pretrained: bool, weights: Path | None, out_index: int, options: Mapping[str, Any]
) -> str:
    reason = _one_line(error)
    if isinstance(error, (TypeError, AssertionError)) or not (pretrained or weights):
        return f"timm cannot build `{name}` with `out_index` {out_index} and `options` {dict(options)}: {reason}"
    if weights:
        return f"The weights in {weights} do not fit `{name}` with `options` {dict(options)}: {reason}"
    return f"Could not get the pretrained weights of `{name}`; without a network, give `weights=<file>`: {reason}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
