"""Hard negatives from a bank of all studies: neighbours mined beforehand, or found by the embeddings in the bank."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.distributed import from_first_rank
from hardneg_plugin.errors import require_count
from hardneg_plugin.functional.hard_negatives import are_matches, mine, most_similar
from hardneg_plugin.functional.match_keys import UNKNOWN, find_keys, match_key
from hardneg_plugin.neighbours.table import read_neighbours
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.memory import StudyBank
from hardneg_plugin.objectives.negatives.sources import InBatch

log = logging.getLogger(__name__)


class Bank(nn.Module):
    """The neighbours of a study among all studies seen so far, with the embeddings of their last visit.

    Each study has a slot that its visits fill. Its neighbours are those of a table mined beforehand, or the nearest by the
    embeddings in the bank, searched at the start of every `refresh_every`-th epoch. Where neighbours are not known or not yet
    seen, the nearest of the batch take their place. Matches are left out, and studies must have ids. The gradient does not reach
    the embeddings in the bank.

    Args:
        k: hard negatives per study, a positive integer.
        pool: draw them from this many nearest neighbours, >= k; None: take the nearest.
        ceiling: a neighbour with a cosine to the positive above this counts as a match, in (-1, 1].
        table: mined neighbours, a file that `read_neighbours` reads or a mapping; None: search by the embeddings in the bank.
        refresh_every: epochs between two searches, a positive integer.

    A slot takes 8 D + 40 bytes, for embeddings of width D.

    >>> from hardneg_plugin import HardNegativeObjective
    >>> objective = HardNegativeObjective(negatives=Bank(table={"CXR1": ["CXR7", "CXR3"], "CXR3": ["CXR1"]}))
    """

    def __init__(
        self,
        k: int = 1,
        pool: int | None = None,
        ceiling: float = 1.0,
        table: str | Path | Mapping[str, Sequence[str]] | None = None,
        refresh_every: int = 1,
    ) -> None:
        super().__init__()
        self._in_batch = InBatch(k, pool, ceiling)
        require_count(refresh_every, "negatives.refresh_every")
        self.k, self.pool, self.ceiling, self.refresh_every = k, pool, ceiling, refresh_every
        self.bank = StudyBank()
        self._is_mined = table is not None
        self._epoch = 0
        self._studies = torch.empty(0, dtype=torch.int64)
        self._neighbours = torch.empty(0, 1, dtype=torch.int64)
        if table is not None:
            self._studies, self._neighbours = _table_keys(
                table if isinstance(table, Mapping) else read_neighbours(table)
            )

    def forward(self, batch: EmbeddedBatch) -> HardNegatives:
        """The k nearest known neighbours, filled up from the batch; then the batch goes into the bank."""
        batch.keys.require_study_ids("negatives=bank")
        self._refresh(batch.progress.epoch, batch.reports.device)
        found = self._in_batch(batch)
        if len(self.bank) and len(self._studies):
            found = self._known(batch).filled_up(found)
        keys = batch.all_keys
        self.bank.write(keys.study, keys.columns, batch.all_images.detach(), batch.all_reports.detach())
        return found

    def _refresh(self, epoch: int, device: torch.device) -> None:
        is_due = epoch != self._epoch and epoch % self.refresh_every == 0
        self._epoch = epoch
        if self._is_mined or not is_due or not len(self.bank):
            return
        study_keys, keys, _, reports = self.bank.entries(device)
        index, valid = mine(reports, keys, k=self.pool or self.k, ceiling=self.ceiling)
        studies, order = study_keys.sort()
        neighbours = study_keys[index].where(valid, UNKNOWN)[order]
        # rank 0's on every rank: devices may round a tie differently
        self._studies, self._neighbours = studies, from_first_rank(neighbours)
        log.info("Found the neighbours of %d studies by the embeddings in the bank.", len(studies))

    @torch.no_grad()
    def _known(self, batch: EmbeddedBatch) -> HardNegatives:
        device = batch.reports.device
        self._studies, self._neighbours = self._studies.to(device), self._neighbours.to(device)
        row = find_keys(self._studies, batch.keys.study)
        neighbours = self._neighbours[row].masked_fill(row[:, None] < 0, UNKNOWN)  # (B, P)
        slots = self.bank.slots_of(neighbours)
        keys, images, reports = self.bank.read(slots)
        similarity = torch.einsum("bd,bpd->bp", batch.reports, reports)
        unwanted = (slots < 0) | are_matches(batch.keys.columns, keys) | ~(similarity <= self.ceiling + 1e-6)
        # by the order of the table, not by today's similarity
        order = -torch.arange(slots.shape[1], dtype=torch.float32, device=device).expand(slots.shape)
        index, valid = most_similar(order, unwanted, k=self.k, pool=self.pool, generator=batch.generator())
        rows = torch.arange(len(index), device=device)[:, None]
        return HardNegatives(reports=reports[rows, index], images=images[rows, index], valid=valid)

    def get_extra_state(self) -> dict[str, Any]:
        """The state in a checkpoint beside the slots: the neighbours, and the epoch of their search."""
        return {"epoch": self._epoch, "studies": self._studies, "neighbours": self._neighbours}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; neighbours from a table stay as they are."""
        self._epoch = state["epoch"]
        if not self._is_mined:
            self._studies, self._neighbours = state["studies"], state["neighbours"]


def _table_keys(table: Mapping[str, Sequence[str]]) -> tuple[Tensor, Tensor]:
    """Keys of studies, ascending, `(M,)`, and of their neighbours `(M, P)`, padded with `UNKNOWN`."""
    studies = torch.tensor([match_key(study) for study in table])
    width = max(map(len, table.values()))
    neighbours = torch.full((len(table), width), UNKNOWN)
    for row, names in zip(neighbours, table.values(), strict=True):
        row[: len(names)] = torch.tensor([match_key(name) for name in names])
    order = studies.argsort()
    return studies[order], neighbours[order]
