"""Hard negatives from a bank of all studies: neighbours mined beforehand, or found by the embeddings in the bank."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardneg_plugin.distributed import from_first_rank
from hardneg_plugin.errors import require, require_count
from hardneg_plugin.functional.hard_negatives import are_matches, most_similar
from hardneg_plugin.functional.match_keys import UNKNOWN, find_keys, match_key
from hardneg_plugin.neighbours.table import read_neighbours
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.negatives.bank_search import as_embeddings, nearest_studies
from hardneg_plugin.objectives.negatives.sources import InBatch
from hardneg_plugin.objectives.study_bank import StudyBank
from hardneg_plugin.objectives.study_parts import StudyParts

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
        dtype: that embeddings are kept in; bfloat16 rounds them to 8 bits, and what is read has unit length again.
        device: "cpu" keeps everything in host memory, pinned where there is CUDA, and brings rows to the device of the batch; None:
            it is kept there.
        sharded: each rank holds the studies that fall to it by their keys, instead of all.

    A study takes `2 D s + 56 + 8 (P + 1)` bytes on every rank, with `sharded` on one: D the width of embeddings, s = 4 bytes a
    number, 2 in bfloat16, and P neighbours, which is pool or k, or as many as the table has. The memory grows by quarters, so up to
    a quarter more is allocated.

    A checkpoint holds the whole bank, and is resumed under any of these settings and number of ranks: float32 is rounded where the
    bank is of bfloat16, bfloat16 stays as rounded as it is. With `sharded` rank 0 gathers the parts in host memory (`whole_parts`).

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
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: Literal["cpu"] | None = None,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self._in_batch = InBatch(k, pool, ceiling)
        require_count(refresh_every, "negatives.refresh_every")
        require(dtype in ("float32", "bfloat16"), "negatives.dtype", "float32 or bfloat16", dtype)
        require(device in ("cpu", None), "negatives.device", "cpu, or null for the device of the batch", device)
        require(isinstance(sharded, bool), "negatives.sharded", "true or false", sharded)
        self.k, self.pool, self.ceiling, self.refresh_every = k, pool, ceiling, refresh_every
        self._parts = StudyParts(sharded)
        self._home = None if device is None else torch.device(device)
        self.bank = StudyBank(getattr(torch, dtype), self._home, self._parts)
        self._is_mined = table is not None
        self._is_divided = False
        self._epoch = 0
        self._studies = torch.empty(0, dtype=torch.int64)
        self._neighbours = torch.empty(0, 0, dtype=torch.int64)
        if table is not None:
            self._studies, self._neighbours = _table_keys(
                table if isinstance(table, Mapping) else read_neighbours(table)
            )

    @property
    def nbytes(self) -> int:
        """The bytes of the bank and its neighbours on this rank."""
        return self.bank.nbytes + self._studies.nbytes + self._neighbours.nbytes

    def forward(self, batch: EmbeddedBatch) -> HardNegatives:
        """The k nearest known neighbours, filled up from the batch; then the batch goes into the bank."""
        batch.keys.require_study_ids("negatives=bank")
        self._divide()
        self._refresh(batch.progress.epoch, batch.reports.device)
        found = self._in_batch(batch)
        # so on all ranks or none
        if self.bank.is_begun and self._neighbours.shape[1]:
            found = self._known(batch).filled_up(found)
        keys = batch.all_keys
        self.bank.write(keys.study, keys.columns, batch.all_images.detach(), batch.all_reports.detach())
        return found

    def _divide(self) -> None:
        """Leave what other ranks hold: a table, and a state that came before there were ranks."""
        if not self._is_divided and self._parts.ranks > 1:
            self._is_divided = True
            self.bank.set_extra_state(self.bank.get_extra_state())
            self._studies, self._neighbours = self._own_neighbours()

    def _own_neighbours(self) -> tuple[Tensor, Tensor]:
        own = self._parts.are_own(self._studies)
        return self._studies[own], self._neighbours[own]

    def _refresh(self, epoch: int, device: torch.device) -> None:
        is_due = epoch != self._epoch and epoch % self.refresh_every == 0
        self._epoch = epoch
        if self._is_mined or not is_due or not self.bank.is_begun:
            return
        study_keys, keys, _, reports = self.bank.entries(device)
        found = sum(self._parts.sizes(len(study_keys), device))
        candidates = self._parts.chunks([keys, reports], device)
        neighbours = nearest_studies(keys, reports, candidates, k=self.pool or self.k, ceiling=self.ceiling)
        if not found:
            return
        self._studies, order = study_keys.sort()
        self._neighbours = neighbours[order]
        if not self._parts.sharded:
            # rank 0's on every rank: devices may round a tie differently
            self._neighbours = from_first_rank(self._neighbours.to(device)).to(study_keys.device)
        log.info("Found the neighbours of %d studies by the embeddings in the bank.", found)

    @torch.no_grad()
    def _known(self, batch: EmbeddedBatch) -> HardNegatives:
        device = batch.reports.device
        is_alone = self._parts.ranks == 1
        studies = (batch.keys if is_alone else batch.all_keys).study
        neighbours = self._parts.combined(self._neighbours_of(studies), studies)  # (B or N, P)
        keys, images, reports = self._parts.fetch(neighbours, batch.shards.sizes, self._read)
        neighbours = neighbours if is_alone else neighbours[batch.shards.local]
        images, reports = as_embeddings(images), as_embeddings(reports)
        similarity = torch.einsum("bd,bpd->bp", batch.reports, reports)
        is_missing = (keys[:, :, 0] == UNKNOWN) | (neighbours == UNKNOWN)
        unwanted = is_missing | are_matches(batch.keys.columns, keys) | ~(similarity <= self.ceiling + 1e-6)
        # by the order of the table, not by today's similarity
        order = -torch.arange(neighbours.shape[1], dtype=torch.float32, device=device).expand(neighbours.shape)
        index, valid = most_similar(order, unwanted, k=self.k, pool=self.pool, generator=batch.generator())
        rows = torch.arange(len(index), device=device)[:, None]
        return HardNegatives(reports=reports[rows, index], images=images[rows, index], valid=valid)

    def _neighbours_of(self, studies: Tensor) -> Tensor:
        """The neighbours `(N, P)` of study keys `(N,)`, `UNKNOWN` where this rank does not know them."""
        home = self._home or studies.device
        self._studies, self._neighbours = self._studies.to(home), self._neighbours.to(home)
        if not len(self._studies):
            return studies.new_full((len(studies), self._neighbours.shape[1]), UNKNOWN)
        row = find_keys(self._studies, studies.to(home))
        return self._neighbours[row].masked_fill(row[:, None] < 0, UNKNOWN).to(studies.device)

    def _read(self, studies: Tensor) -> tuple[Tensor, ...]:
        """Match keys, images and reports of study keys, on their device and as they are kept; keys are `UNKNOWN` without a slot."""
        slots = self.bank.slots_of(studies)
        keys, images, reports = self.bank.read(slots)
        keys = keys.masked_fill((slots < 0)[..., None], UNKNOWN)
        return tuple(_brought(rows, studies.device) for rows in (keys, images, reports))

    def get_extra_state(self) -> dict[str, Any]:
        """The state in a checkpoint beside the slots: the neighbours, and the epoch of their search."""
        studies, neighbours = self._own_neighbours()
        return {"epoch": self._epoch, "studies": studies, "neighbours": neighbours, **self._parts.label}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; neighbours from a table stay as they are.

        Raises:
            UserError: it is that of another rank's part.
        """
        self._parts.require_whole(state)
        self._epoch = state["epoch"]
        if not self._is_mined:
            self._studies, order = state["studies"].sort()  # parts follow one another
            self._neighbours = state["neighbours"][order]
            self._studies, self._neighbours = self._own_neighbours()


def _brought(rows: Tensor, device: torch.device) -> Tensor:
    """Rows on a device, without a wait."""
    is_upload = device.type == "cuda" and rows.device.type == "cpu"
    return (rows.pin_memory() if is_upload else rows).to(device, non_blocking=True)


def _table_keys(table: Mapping[str, Sequence[str]]) -> tuple[Tensor, Tensor]:
    """Keys of studies, ascending, `(M,)`, and of their neighbours `(M, P)`, padded with `UNKNOWN`."""
    studies = torch.tensor([match_key(study) for study in table])
    width = max(map(len, table.values()))
    neighbours = torch.full((len(table), width), UNKNOWN)
    for row, names in zip(neighbours, table.values(), strict=True):
        row[: len(names)] = torch.tensor([match_key(name) for name in names])
    order = studies.argsort()
    return studies[order], neighbours[order]
