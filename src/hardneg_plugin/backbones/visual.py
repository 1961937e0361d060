"""Patch features of chest X-rays from any timm model."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from hardneg_plugin.backbones.released import listed, read_released
from hardneg_plugin.backbones.released_names import EXTRACTOR, resnet_names
from hardneg_plugin.backbones.visual_features import ViewEncoder
from hardneg_plugin.errors import UserError


class VisualExtractor(ViewEncoder):
    """A timm model without its head, run on existing views only.

    With trained weights the network takes 3 channels (the gray one three times), else 1, unless `options={"in_chans": ...}` says
    otherwise. Images are normalised by the mean and standard deviation that timm knows of the model, averaged for 1 channel.
    Weights that were trained on another range need their own `mean` and `std`. The feature map of a vision transformer is the one
    before its last norm, as in timm's feature wrapper. `.to(memory_format=torch.channels_last)` is supported.

    Args:
        name: A timm model, with or without a weights tag: `resnet101.a1_in1k`.
        pretrained: Download timm's weights.
        weights: A local `.safetensors` or `.pth` file instead of a download: weights of the whole model under timm's names (a head
            is ignored), or a released R2Gen or R2GenCMN with its ResNet.
        out_index: Index of the model's feature map; -1 is the last. Later layers are removed.
        options: Further arguments of `timm.create_model`, such as `img_size` or a ResNet's `channels`.
        mean, std, frozen: As of `ViewEncoder`; None: those that timm knows.

    Raises:
        UserError: If timm does not know or cannot build the model, or weights are missing, do not fit, or expect images of another
            range than timm's.

    >>> visual = VisualExtractor("resnet10t")
    >>> features = visual(torch.zeros(2, 1, 1, 64, 64, dtype=torch.uint8))
    >>> features.patches.shape, features.grid
    (torch.Size([2, 4, 512]), (2, 2))
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        out_index: int = -1,
        options: Mapping[str, Any] = {},
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        frozen: bool = False,
    ) -> None:
        if ":" not in name and not timm.is_model(name.partition(".")[0]):
            near = ", ".join(get_close_matches(name.partition(".")[0], timm.list_models(), n=5, cutoff=0.4))
            raise UserError(f"Expected the name of a timm model, but got `{name}`. Nearest: {near or 'none'}.")
        is_trained = pretrained or weights is not None
        options = {"in_chans": 3 if is_trained else 1, **options}
        file = None if weights is None else Path(weights)
        released = None if file is None else _released_weights(file)
        tensors = None if file is None or released is not None else _weight_names(file)
        if tensors is not None and (mean is None or std is None):
            _check_range(tensors, file)
        network = _build(
            name, pretrained and file is None, None if tensors is None else file, tensors, out_index, options
        )
        known = [torch.tensor(network.pretrained_cfg[key]) for key in ("mean", "std")]
        if options["in_chans"] == 1:
            known = [values.mean(0, keepdim=True) for values in known]
        super().__init__(
            network,
            network.feature_info.channels()[-1],
            mean=known[0].tolist() if mean is None else mean,
            std=known[1].tolist() if std is None else std,
            frozen=frozen,
        )
        if released is not None:
            names = {key.released: key.ours for key in resnet_names(network, self.mean, self.std)}
            try:
                network.load_state_dict({names.get(key, key): value for key, value in released.items()})
            except RuntimeError as error:
                raise UserError(f"The visual extractor in {file} does not fit `{name}`: {_one_line(error)}") from error

    def feature_map(self, images: Tensor) -> Tensor:
        """The map of the chosen layer."""
        found: Tensor
        (found,) = self.network(images)
        # hierarchical transformers keep (N, H, W, C), which timm's wrapper tells
        return found.permute(0, 2, 3, 1) if getattr(self.network, "output_fmt", "NCHW") == "NCHW" else found


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


def _check_range(names: set[str], path: Path | None) -> None:
    """Refuse weights of TorchXRayVision, whose images go from -1024 to 1024, under timm's mean and deviation."""
    if any(name.endswith("op_threshs") for name in names):
        raise UserError(
            f"The weights in {path} are of TorchXRayVision, which expects images from -1024 to 1024: take "
            f"visual=torchxrayvision visual.weights={path}, or set visual.mean=[0.5] visual.std=[0.00048828125]."
        )


def _build(
    name: str,
    pretrained: bool,
    weights: Path | None,
    names: set[str] | None,
    out_index: int,
    options: Mapping[str, Any],
) -> Any:
    """The network, with the weights of a file whose tensors have these names, or without a file."""
    arguments: dict[str, Any] = {
        **options,
        "pretrained": pretrained or weights is not None,
        "features_only": True,
        "out_indices": (out_index,),
    }
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"file": str(weights), "custom_load": False}
    try:
        network = _create(name, arguments)
        if not isinstance(network, nn.ModuleDict):
            # EfficientNet and relatives come in a wrapper that computes more than the map
            network = _create(name, {**arguments, "feature_cls": "getter"})
    except Exception as error:  # timm, torch and the hub raise errors of many kinds
        raise UserError(_explain(error, name, pretrained, weights, out_index, options)) from error
    if names is not None:
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
