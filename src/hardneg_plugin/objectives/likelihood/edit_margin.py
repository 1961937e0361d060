"""A report must be likelier with its own image than a copy in which a few findings are changed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardneg_plugin.errors import require_count
from hardneg_plugin.functional.likelihood import MarginForm, TokenLosses, from_first_difference, likelihood_margin
from hardneg_plugin.objectives.likelihood.negative_images import ReadReports


@dataclass(frozen=True)
class EditMargin:
    """`functional.likelihood.likelihood_margin` between each report and an edited copy of it, both with the report's image.

    One more pass of the decoder, forward and backward. The copy has fewer changes the higher the hardness: those with `changes` at
    0, those with a single one in the end. A study without a copy has a loss of 0.

    Args:
        form, beta, margin: of the loss, which counts tokens from the first one that differs.
        changes: the most findings that are changed, a positive integer.

    >>> [EditMargin(changes=3).changes_at(hardness) for hardness in (0.0, 0.3, 0.5, 0.9)]
    [3, 3, 2, 1]

    Raises:
        UserError: a value out of its range.
    """

    form: MarginForm = "softplus"
    beta: float = 1.0
    margin: float = 0.0
    changes: int = 3

    def __post_init__(self) -> None:
        require_count(self.changes, "edit_margin.changes")
        self._losses(torch.ones(1), torch.ones(1), torch.ones(1, dtype=torch.bool))

    def changes_at(self, hardness: float) -> int:
        """How many findings are changed: from `changes` down to 1 in steps of equal length.

        Args:
            hardness: in [0, 1].
        """
        return max(1, math.ceil((1 - hardness) * self.changes))

    def __call__(self, own: TokenLosses, read: ReadReports, hardness: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each local study `(B,)`, and scalars to log.

        Args:
            own: of the local reports with their images.
            read: reads edited copies.
            hardness: of this step, in [0, 1].
        """
        changes = self.changes_at(hardness)
        edited = read(changes=changes)
        has_copy = edited.mask.any(1)
        own_rest, edited_rest = from_first_difference(own, edited)
        ahead = (edited_rest - own_rest).detach()
        has_copy = has_copy & ahead.isfinite()
        count = has_copy.sum().clamp_min(1)
        return self._losses(own_rest, edited_rest, has_copy), {
            "edit_changes": torch.full((), float(changes), device=ahead.device),
            "edits_found": has_copy.float().mean(),
            "edit_ahead": ahead.where(has_copy, 0).sum() / count,
            "edit_violated": ((self.beta * ahead < self.margin) & has_copy).sum() / count,
        }

    def _losses(self, own: Tensor, edited: Tensor, has_copy: Tensor) -> Tensor:
        return likelihood_margin(
            own, edited[:, None], has_copy[:, None], form=self.form, beta=self.beta, margin=self.margin
        )
