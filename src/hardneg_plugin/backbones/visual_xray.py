"""Patch features from the DenseNet of TorchXRayVision, which was trained on chest X-rays (Cohen et al., MIDL 2022)."""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.visual_features import ViewEncoder
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.tensor_file import read_tensors

MEAN, STD = (0.5,), (1 / 2048,)
"""Under these, black is -1024 and white 1024, as the network expects."""


class XRayVisionExtractor(ViewEncoder):
    """The feature layers of a `torchxrayvision.models.DenseNet`, for gray images whose values go from -1024 to 1024.

    Args:
        download: The package's name of weights to download, such as `densenet121-res224-all`; None: random weights, or those of
            `weights`. The package unpickles what it downloads, which can run code.
        weights: A file with its state dict: `torch.save(torchxrayvision.models.DenseNet(weights=...).state_dict(), FILE)`. It is
            read without running code.
        frozen: As of `ViewEncoder`.
        options: Further arguments of the DenseNet, such as `block_config`.

    Raises:
        UserError: If the package is not installed, or weights cannot be had or do not fit.
    """

    def __init__(
        self,
        *,
        download: str | None = None,
        weights: str | None = None,
        frozen: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        try:
            from torchxrayvision.models import DenseNet
        except ImportError as error:
            raise UserError(
                "visual=torchxrayvision needs a package that is not installed: pip install 'hardneg-plugin[torchxrayvision]'."
            ) from error
        try:
            model = DenseNet(weights=download, **(options or {}))
        except Exception as error:  # of the download, too
            raise UserError(
                f"TorchXRayVision cannot make the DenseNet {download or options}: {first_line(error)}."
            ) from error
        if weights is not None:
            _load(model, Path(weights))
        width: int = model.features.norm5.num_features
        super().__init__(model.features, width, mean=MEAN, std=STD, frozen=frozen)

    def feature_map(self, images: Tensor) -> Tensor:
        """The map behind the last dense block."""
        found: Tensor = F.relu(self.network(images))
        return found.permute(0, 2, 3, 1)


def _load(model: Any, path: Path) -> None:
    try:
        state = read_tensors(path)
    except UserError:
        raise
    except Exception as error:  # of a missing or broken file, or of one that pickles the whole model
        raise UserError(
            f"Expected a state dict in {path}, but it cannot be read without running code from it ({first_line(error)}). Write one "
            "with torch.save(model.state_dict(), FILE)."
        ) from error
    of_features = {key: value for key, value in dict(state).items() if str(key).startswith("features.")}
    missing = sorted({key for key in model.state_dict() if key.startswith("features.")} - of_features.keys())
    try:
        model.load_state_dict(of_features, strict=False)
    except RuntimeError as error:
        raise UserError(
            f"The weights in {path} do not fit the DenseNet of TorchXRayVision: {first_line(error)}."
        ) from error
    if missing:
        raise UserError(
            f"Expected the state dict of a DenseNet of TorchXRayVision in {path}, but {missing[0]} and {len(missing) - 1} other "
            "tensors are not in it."
        )
