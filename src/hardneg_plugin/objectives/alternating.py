"""Alternating minimisation and maximisation: each study keeps auxiliary negatives that get harder from visit to visit."""

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import require_count
from hardneg_plugin.functional.hardening import Ascent, turn_back
from hardneg_plugin.functional.hardening_strategy import StepStudies
from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.objectives.study_bank import StudyBank


class Alternating(nn.Module):
    """Alternating minimisation and maximisation, as in the abstract of ITHN; reconstructed, not from the paper.

    Each study keeps auxiliary negatives, at first its hard negatives. A step trains against them as they are (the minimisation),
    then moves them by one `Ascent`, and stores them for the study's next visit (the maximisation). Those that training has left
    beyond the guard of the ascent in the meantime are turned back to it. A hard negative beyond the guard is used, but not stored.

    The schedule limits each ascent: at most `hardness` times the angle to the positive; nothing is stored at hardness 0. Studies
    must have ids.

    Args:
        step_size: angle of a step in radians, > 0.
        steps: of each ascent, a positive integer.
        margin: how much worse than the positive an auxiliary negative stays aligned, a cosine difference in [0, 2).

    >>> strategy = Alternating(step_size=0.1, steps=2)
    >>> strategy.for_evaluation()
    Ascent(margin=0.0, steps=2, step_size=0.1)

    Raises:
        UserError: an argument out of range.
    """

    mixes_studies = False

    def __init__(self, step_size: float = 0.1, steps: int = 1, margin: float = 0.0) -> None:
        super().__init__()
        require_count(steps, "hardening.steps")
        self.ascent = Ascent(margin=margin, steps=steps, step_size=step_size)
        self.bank = StudyBank()

    def for_evaluation(self) -> Ascent:
        """One ascent from the hard negative: auxiliary negatives exist for training studies only."""
        return self.ascent

    @torch.no_grad()
    def forward(
        self,
        images: Tensor,
        reports: Tensor,
        negatives: Tensor,
        hardness: float,
        studies: StepStudies | None = None,
    ) -> Tensor:
        """The auxiliary negatives `(B, K, D)` that this step trains against; those for the next visit are stored.

        Args:
            images, reports, hardness, studies: as of `Hardening`.
            negatives: `(B, K, D)`, unit length.

        Raises:
            UserError: the studies have no ids.
            ValueError: `studies` is None.
        """
        if studies is None:
            raise ValueError("Expected `studies`: outside training `for_evaluation` stands for this strategy.")
        studies.keys.require_study_ids("hardening=alternating")
        slots = self.bank.slots_of(studies.keys.study)
        has_slot = (slots >= 0)[:, None]
        current = negatives.detach()
        if len(self.bank):
            (kept,) = self.bank.read(slots)
            kept = turn_back(images, reports, kept, margin=self.ascent.margin)
            current = torch.where(has_slot[:, :, None], kept, current)
        if hardness > 0:
            advanced = self.ascent(images, reports, current, hardness)
            guard = (images * reports).sum(dim=-1, keepdim=True) - self.ascent.margin
            is_new = studies.valid & (torch.einsum("bd,bkd->bk", images, current) <= guard)
            is_kept = has_slot[:, 0] | is_new.all(dim=1)
            keys = studies.keys.study.where(is_kept, UNKNOWN)
            self.bank.write(studies.shards.gather(keys), studies.shards.gather(advanced))
        return current
