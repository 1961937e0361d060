"""The min-max problem taken by turns: each study owns an auxiliary negative that persists and is made harder bit by bit."""

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import harden_ascent, turn_back
from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
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

    def __init__(self, step_size: float = 0.1, steps: int = 1, margin: float = 0.0) -> None:
        super().__init__()
        if step_size <= 0:
            raise UserError(f"hardening.step_size: expected an angle in radians above 0, but got {step_size}.")
        if steps < 1:
            raise UserError(f"hardening.steps: expected at least one step of ascent, but got {steps}.")
        if not 0 <= margin < 2:
            raise UserError(f"hardening.margin: expected a cosine difference from 0 to below 2, but got {margin}.")
        self.step_size, self.steps, self.margin = step_size, steps, margin
        self.bank = StudyBank()

    @torch.no_grad()
    def forward(self, batch: EmbeddedBatch, negatives: HardNegatives, hardness: float) -> Tensor:
        """The auxiliary negatives that this step trains against, `(B, K, D)`, detached; then they are advanced and kept."""
        batch.require_study_ids("hardening=alternating")
        images, reports = batch.images, batch.reports
        slots = self.bank.slots_of(batch.keys[:, 0])
        current = negatives.reports.detach()
        is_owned = (slots >= 0)[:, None]
        if len(self.bank):
            _, kept = self.bank.read(slots)
            kept = turn_back(images, reports, kept, margin=self.margin)
            current = torch.where(is_owned[:, :, None], kept, current)
        if hardness > 0:
            advanced = harden_ascent(
                images,
                reports,
                current,
                hardness=hardness,
                margin=self.margin,
                steps=self.steps,
                step_size=self.step_size,
            )
            guard = (images * reports).sum(dim=-1, keepdim=True) - self.margin
            is_new = negatives.valid & (torch.einsum("bd,bkd->bk", images, current) <= guard)
            is_kept = is_owned | is_new.all(dim=1, keepdim=True)
            keys = batch.keys[:, :1].where(is_kept, UNKNOWN)
            self.bank.write(batch.shards.gather(keys), batch.shards.gather(advanced))
        return current
