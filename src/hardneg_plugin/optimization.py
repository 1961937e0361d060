"""Which parameters an optimizer treats alike, and clipping that a fused one allows."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

VISUAL = ("visual.network.", "visual.extractor.network.")
"""How the names of what may have been trained on other images begin."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, visual_lr: float | None, decay_vectors: bool
) -> list[dict[str, Any]]:
    """Groups for an optimizer: `visual_lr` for the network of the visual extractor, no weight decay on weights of one dimension.

    Args:
        named_parameters: of the model; those that need no gradient are left out. The network's start with "visual." and go on with
            "network.", at once or after "extractor.".
        visual_lr: None: that of the optimizer.
        decay_vectors: weight decay on weights of one dimension (biases, norms, a logit scale) too.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups.setdefault((name.startswith(VISUAL), parameter.ndim > 1 or decay_vectors), []).append(parameter)
    return [
        {
            "params": parameters,
            **({"lr": visual_lr} if is_visual and visual_lr is not None else {}),
            **({} if decays else {"weight_decay": 0.0}),
        }
        for (is_visual, decays), parameters in groups.items()
    ]


def clip_gradients(optimizer: Optimizer, limit: float, algorithm: str | None) -> None:
    """Clip the gradients of all parameters by their common norm, or each by value where `algorithm` is "value"."""
    clip = clip_grad_value_ if algorithm == "value" else clip_grad_norm_
    clip([parameter for group in optimizer.param_groups for parameter in group["params"]], limit)
