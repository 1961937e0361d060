"""Parameter groups, the one learning-rate schedule that torch lacks, and clipping for fused optimizers."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hardneg_plugin.errors import UserError

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


def warmup_cosine(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.05) -> LambdaLR:
    """Each group's rate risen linearly over the share `warmup` of all steps, then lowered to 0 along half a cosine.

    Raises:
        UserError: `warmup` outside [0, 1).
    """
    if not 0 <= warmup < 1:
        raise UserError(f"lr_schedule.schedule.warmup: expected a share of all steps in [0, 1), but got {warmup}.")
    rising = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total_steps - rising))))

    return LambdaLR(optimizer, factor)


def clip_gradients(optimizer: Optimizer, limit: float, algorithm: str | None) -> None:
    """Clip the gradients of all parameters by their common norm, or each by value where `algorithm` is "value"."""
    clip = clip_grad_value_ if algorithm == "value" else clip_grad_norm_
    clip([parameter for group in optimizer.param_groups for parameter in group["params"]], limit)
