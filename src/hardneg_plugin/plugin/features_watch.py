"""A warning where studies have features that are not finite."""

from torch import Tensor

from hardneg_plugin.distributed import warn_on_first_rank

READ_EVERY = 50
"""Steps between two looks at the count: each waits for the device."""


class FeaturesWatch:
    """Counts studies that are left out because of their features, and warns of the first.

    >>> import torch
    >>> watch = FeaturesWatch()
    >>> watch(torch.tensor(0.0))
    >>> watch.look()
    >>> watch.has_warned
    False
    """

    def __init__(self) -> None:
        self.has_warned = False
        self.steps = 0
        self.share: Tensor | float = 0.0

    def __call__(self, share: Tensor) -> None:
        """Count one step; every 50th looks.

        Args:
            share: `non_finite_share` of its logs, a scalar.
        """
        if self.has_warned:
            return
        self.steps += 1
        self.share = self.share + share.detach()
        if self.steps == READ_EVERY:
            self.look()

    def look(self) -> None:
        """Look at the steps since the last time; waits for the device."""
        if self.steps:
            self.seen(float(self.share) / self.steps)
            self.steps, self.share = 0, 0.0

    def seen(self, share: float) -> None:
        """Warn once of a share above zero.

        Args:
            share: of studies, the mean over some steps.
        """
        if share > 0 and not self.has_warned:
            self.has_warned = True
            percent = float(f"{100 * share:.2g}")
            warn_on_first_rank(
                f"{percent:g}% of the latest studies had image or report features that are not finite or of length zero: "
                "they are left out of the contrast and of what it remembers, and counted in train/non_finite_share. Look for empty "
                "images and reports, and for what overflows in half precision."
            )
