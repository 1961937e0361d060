"""Parameter groups, and a learning-rate schedule with warm-up and cosine."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hardneg_plugin.errors import require_number

VISUAL = ("visual.network.", "visual.extractor.network.")
"""Prefixes of the parameters of the visual extractor's network, which may be pretrained."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, visual_lr: float | None, decay_vectors: bool
) -> list[dict[str, Any]]:
    """Groups for an optimizer: `visual_lr` for the network of the visual extractor, no weight decay on vectors.

    Each has a name, by which its learning rate is logged.

    Args:
        named_parameters: of the model; frozen ones are left out. Those of the network start with one of `VISUAL`.
        visual_lr: learning rate of the network; None: that of the optimizer.
        decay_vectors: apply weight decay to vectors (biases, norms, a logit scale), too.

    >>> [group.get("weight_decay") for group in parameter_groups(
    ...     nn.Linear(2, 3).named_parameters(), visual_lr=None, decay_vectors=False)]
    [None, 0.0]
    """
    if visual_lr is not None:
        require_number(visual_lr, "model.visual_lr", "a learning rate > 0", above=0)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups.setdefault((name.startswith(VISUAL), parameter.ndim > 1 or decay_vectors), []).append(parameter)
    return [
        {
            "params": parameters,
            **({"lr": visual_lr} if is_visual and visual_lr is not None else {}),
            **({} if decays else {"weight_decay": 0.0}),
            "name": f"{'visual' if is_visual else 'other'}_{'weights' if decays else 'vectors'}",
        }
        for (is_visual, decays), parameters in groups.items()
    ]


def warmup_cosine(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.05) -> LambdaLR:
    """Linear warm-up of each group's learning rate, then half a cosine down to 0.

    Args:
        optimizer: its rates are the peak.
        total_steps: optimizer steps of the training.
        warmup: share of `total_steps`, in [0, 1).

    Raises:
        UserError: `warmup` is out of range.
    """
    require_number(warmup, "lr_schedule.schedule.warmup", "a share of all steps, in [0, 1)", least=0, below=1)
    rising = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total_steps - rising))))

    return LambdaLR(optimizer, factor)
