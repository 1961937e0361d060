"""A warning where the first steps of a training find no hard negative."""

from torch import Tensor

from hardneg_plugin.distributed import warn_on_first_rank
from hardneg_plugin.objectives import Bank, HardNegativeObjective
from hardneg_plugin.objectives.schedule import TrainingProgress

STEPS = 10
"""After how many steps it is judged."""


class NegativesWatch:
    """Counts the hard negatives of the first steps, and warns once if there are none, as with one study per device.

    A bank knows no neighbours before its first search, so the epochs before that do not count.

    >>> import torch
    >>> watch = NegativesWatch()
    >>> watch(torch.tensor(1.0), 4, HardNegativeObjective(), TrainingProgress())
    >>> watch.steps
    1
    """

    def __init__(self) -> None:
        self.steps = 0
        self.found: Tensor | float = 0.0

    @property
    def is_looking(self) -> bool:
        """Whether steps still count."""
        return self.steps < STEPS

    def __call__(
        self, found: Tensor, studies: int, objective: HardNegativeObjective, progress: TrainingProgress
    ) -> None:
        """Count one step.

        Args:
            found: `negatives_found` of its logs, a scalar.
            studies: of this device.
            objective: names the source of negatives.
            progress: the position in training.
        """
        source = objective.negatives
        if not self.is_looking or (isinstance(source, Bank) and progress.epoch < source.refresh_every):
            return
        self.steps += 1
        self.found = self.found + found.detach()
        if self.steps == STEPS and float(self.found) == 0:  # the only time that it waits for the device
            warn_on_first_rank(
                f"No hard negative was found in {STEPS} steps with {studies} {'study' if studies == 1 else 'studies'} per device. "
                "Take a larger batch, with chunks=N if it does not fit into memory, or keep studies of earlier steps by "
                "negatives=Queue() or negatives=Bank()."
            )
