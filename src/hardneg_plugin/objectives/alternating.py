"""The min-max problem taken by turns: each study owns an auxiliary negative that persists and is made harder bit by bit."""

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import Ascent, StepStudies, turn_back
from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.objectives.memory import StudyBank


class Alternating(nn.Module):
    """Alternating minimisation and maximisation, as the abstract of ITHN has it; reconstructed, not from the paper.

    Each study owns auxiliary negatives, which begin as its mined ones. A step trains against them as they are (the
    minimisation), then moves them by one ascent of their alignment with the image, and keeps them for the study's next visit
    (the maximisation). They stay behind the guard of `harden_ascent`: one that training has meanwhile left better aligned than
    the own report minus `margin` is turned back to it. A mined negative beyond the guard is used, but not made the study's own.

    The schedule says how far one ascent may go: at most `hardness` times the way to the own report; with hardness 0 nothing
    is kept. Studies must have ids.

    Args:
        step_size: of the ascent, in radians, above 0.
        steps: of each ascent, at least 1.
        margin: how much worse than the own report an auxiliary negative stays aligned, a cosine >= 0.
    """

    mixes_studies = False

    def __init__(self, step_size: float = 0.1, steps: int = 1, margin: float = 0.0) -> None:
        super().__init__()
        if steps < 1:
            raise UserError(f"hardening.steps: expected a positive integer, but got {steps}.")
        self.ascent = Ascent(margin=margin, steps=steps, step_size=step_size)
        self.bank = StudyBank()

    def for_evaluation(self) -> Ascent:
        """One ascent from the mined negative: auxiliary negatives belong to training studies."""
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
        """The auxiliary negatives `(B, K, D)` that this step trains against; then they are advanced and kept.

        Arguments are those of `Hardening`, with `negatives` `(B, K, D)`.

        Raises:
            UserError: the studies are not known.
        """
        if studies is None:
            raise ValueError("Expected `studies`: outside training `for_evaluation` stands for this strategy.")
        studies.keys.require_study_ids("hardening=alternating")
        slots = self.bank.slots_of(studies.keys.study)
        is_owned = (slots >= 0)[:, None]
        current = negatives.detach()
        if len(self.bank):
            (kept,) = self.bank.read(slots)
            kept = turn_back(images, reports, kept, margin=self.ascent.margin)
            current = torch.where(is_owned[:, :, None], kept, current)
        if hardness > 0:
            advanced = self.ascent(images, reports, current, hardness)
            guard = (images * reports).sum(dim=-1, keepdim=True) - self.ascent.margin
            is_new = studies.valid & (torch.einsum("bd,bkd->bk", images, current) <= guard)
            is_kept = is_owned[:, 0] | is_new.all(dim=1)
            keys = studies.keys.study.where(is_kept, UNKNOWN)
            self.bank.write(studies.shards.gather(keys), studies.shards.gather(advanced))
        return current
