"""Embeddings that outlive their step: a queue of the latest reports, and a bank with a slot per study.

Both hold what training made, so both are part of the checkpoint, as extra state and not as buffers: DDP sends every buffer of
a model from rank 0 to all ranks at every step, averaging callbacks average them, and a change of precision casts them. Ranks
agree because each is given the same rows of all ranks, in the same order.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.functional.match_keys import UNKNOWN, find_keys


class ReportQueue(nn.Module):
    """The latest `size` studies' embeddings, first in, first out.

    Args:
        size: studies kept, at least 1. The memory is taken with the first push.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._columns: tuple[Tensor, ...] = ()
        self._pushed = 0

    def __len__(self) -> int:
        """Studies in the queue."""
        return min(self._pushed, self.size)

    @torch.no_grad()
    def push(self, images: Tensor, reports: Tensor, keys: Tensor) -> None:
        """Add N studies, the oldest leaving: embeddings `(N, D)` and match keys `(N, M)` int64.

        Of more than `size` at once, the last ones stay.
        """
        columns = (images, reports, keys)
        if not self._columns:
            self._columns = tuple(column.new_zeros(self.size, *column.shape[1:]) for column in columns)
        self._columns = tuple(column.to(images.device) for column in self._columns)
        rows = torch.arange(self._pushed, self._pushed + len(images), device=images.device)[-self.size :] % self.size
        for column, new in zip(self._columns, columns, strict=True):
            column[rows] = new[-self.size :]
        self._pushed += len(images)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images `(len, D)`, reports `(len, D)` and keys `(len, M)`, views of the memory; only after the first push."""
        images, reports, keys = (column[: len(self)] for column in self._columns)
        return images, reports, keys

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"columns": [column[: len(self)].clone() for column in self._columns], "pushed": self._pushed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Back from a checkpoint; a queue of another size keeps the latest that fit."""
        self._columns, self._pushed = (), 0
        if not state["columns"]:
            return
        # oldest first: a full queue begins where the next study would have gone
        filled = len(state["columns"][0])
        oldest = state["pushed"] % filled if state["pushed"] > filled else 0
        if filled == self.size:
            self._columns, self._pushed = tuple(column.clone() for column in state["columns"]), state["pushed"]
        else:
            images, reports, keys = (column.roll(-oldest, 0) for column in state["columns"])
            self.push(images, reports, keys)


class StudyBank(nn.Module):
    """A slot per study, found by the study's key, in which each visit replaces what the one before left.

    Slots are given in the order in which studies come, and their memory doubles where it runs out: there is no size to choose.
    """

    def __init__(self) -> None:
        super().__init__()
        self._keys = torch.empty(0, dtype=torch.int64)
        self._columns: tuple[Tensor, ...] = ()
        self._count = 0
        self._index()

    def __len__(self) -> int:
        """Studies that have a slot."""
        return self._count

    def slots_of(self, study_keys: Tensor) -> Tensor:
        """The slots of study keys of any shape, -1 for a study without one."""
        self._to(study_keys.device)
        position = find_keys(self._sorted, study_keys)
        if not len(self):
            return position
        return torch.where(position < 0, position, self._slots[position])

    def read(self, slots: Tensor) -> tuple[Tensor, ...]:
        """Columns of slots `(...)`, each `(..., *its shape)`; slot -1 reads some row or other."""
        return tuple(column[slots] for column in self._columns)

    @torch.no_grad()
    def write(self, study_keys: Tensor, *columns: Tensor) -> None:
        """Write N studies' rows: study keys `(N,)` int64 and columns `(N, ...)`.

        A study without a key has no slot, and of one that is there twice the first row counts.
        """
        is_repeated = (study_keys[:, None] == study_keys).tril(-1).any(dim=1)
        rows = ((study_keys != UNKNOWN) & ~is_repeated).nonzero()[:, 0]
        if not len(rows):
            return
        keys, columns = study_keys[rows], tuple(column[rows] for column in columns)
        slots = self.slots_of(keys)
        new = (slots < 0).nonzero()[:, 0]
        if len(new):
            slots[new] = torch.arange(self._count, self._count + len(new), device=slots.device)
            self._grow(self._count + len(new), keys, columns)
        for memory, values in zip((self._keys, *self._columns), (keys, *columns), strict=True):
            memory[slots] = values
        if len(new):
            self._count += len(new)
            self._index()

    def entries(self) -> tuple[Tensor, ...]:
        """Study keys and columns of all slots that are given, views of the memory."""
        return tuple(column[: self._count] for column in (self._keys, *self._columns))

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        keys, *columns = (column.clone() for column in self.entries())
        return {"keys": keys, "columns": columns}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Back from a checkpoint."""
        self._keys, self._columns = state["keys"].clone(), tuple(column.clone() for column in state["columns"])
        self._count = len(self._keys)
        self._index()

    def _to(self, device: torch.device) -> None:
        if self._keys.device != device:
            self._keys = self._keys.to(device)
            self._columns = tuple(column.to(device) for column in self._columns)
            self._index()

    def _grow(self, needed: int, keys: Tensor, columns: tuple[Tensor, ...]) -> None:
        if needed <= len(self._keys) and self._columns:
            return
        capacity = max(1024, needed, 2 * len(self._keys))
        old = (self._keys, *self._columns) if self._columns else (keys[:0], *(column[:0] for column in columns))
        self._keys, *grown = (torch.cat([c, c.new_zeros(capacity - len(c), *c.shape[1:])]) for c in old)
        self._columns = tuple(grown)

    def _index(self) -> None:
        self._sorted, self._slots = self._keys[: self._count].sort()
