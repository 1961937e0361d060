"""What the Trainer does for a model's parameters and not for those of an objective beside it."""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from hardneg_plugin.agreement import check_agreement
from hardneg_plugin.distributed import from_first_rank


class ObjectiveSteps(TrainerCallback):  # type: ignore[misc]
    """Begins with one state on all ranks, clips and clears gradients, and checks after the first step that ranks agree.

    Args:
        objective: the module beside the model.

    >>> steps = ObjectiveSteps(nn.Linear(2, 2))
    """

    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective
        self.is_checked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the values of rank 0, as DDP does for the model."""
        self.is_checked = False
        self.objective.zero_grad()
        with torch.no_grad():
            for tensor in [*self.objective.parameters(), *self.objective.buffers()]:
                tensor.copy_(from_first_rank(tensor.detach().clone()))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clip the gradients of the objective, on their own: the model is clipped as without it."""
        if args.max_grad_norm:
            nn.utils.clip_grad_norm_(self.objective.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clear the gradients."""
        self.objective.zero_grad()
        if not self.is_checked:
            self.is_checked = True
            check_agreement(self.objective, "hard_negatives", args.device)
