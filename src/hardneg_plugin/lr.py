"""Learning-rate schedules that torch has no single class for."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hardneg_plugin.errors import UserError


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
