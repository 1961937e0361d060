"""What the objective says of each step, gathered until the Trainer logs."""

import torch
from torch import Tensor

from hardneg_plugin.distributed import mean_over_ranks
from hardneg_plugin.objectives import ObjectiveOutput


class StepLogs:
    """Sums of the losses and logs of batches; their means over the batches and ranks since the last time.

    >>> logs = StepLogs()
    >>> loss = torch.tensor(2.0)
    >>> logs.add(loss, ObjectiveOutput(loss, loss, {"hardness": torch.tensor(0.5)}))
    >>> logs.means()
    {'report_loss': 2.0, 'alignment_loss': 2.0, 'separation_loss': 2.0, 'hardness': 0.5}
    >>> logs.means()
    {}
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.batches = 0

    @torch.no_grad()
    def add(self, report_loss: Tensor, terms: ObjectiveOutput) -> None:
        """Add a batch.

        Args:
            report_loss: the host's, a scalar.
            terms: of the objective.
        """
        for name, value in terms.logged(report_loss).items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.batches += 1

    def means(self) -> dict[str, float]:
        """By name, and begin anew; one collective, none without a batch."""
        if not self.batches:
            return {}
        means = mean_over_ranks(torch.stack(list(self.sums.values()))) / self.batches
        named = dict(zip(self.sums, means.tolist(), strict=True))
        self.sums, self.batches = {}, 0
        return named
