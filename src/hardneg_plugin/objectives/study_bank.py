"""A bank of embeddings that outlive their step, with a slot per study; extra state and no buffers, as the queue in `memory`."""

from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.functional.match_keys import UNKNOWN, find_keys
from hardneg_plugin.objectives.study_parts import StudyParts

LATEST = 1024
"""So many keys at least are sorted apart from the others."""


class StudyBank(nn.Module):
    """A slot per study, found by the study's key; each visit replaces what the one before left.

    Slots are given in the order in which studies come. The memory grows by a quarter when it is full.

    Args:
        dtype: in which columns of floating point are kept; None: as they come.
        device: that the memory stays on, the CPU in pinned memory where there is CUDA; None: that of the rows that come.
        parts: of which the bank is one; those of other ranks are left out.

    >>> bank = StudyBank()
    >>> bank.write(torch.tensor([7, 3]), torch.tensor([[1.0], [2.0]]))
    >>> bank.read(bank.slots_of(torch.tensor([3])))
    (tensor([[2.]]),)
    """

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        parts: StudyParts = StudyParts(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__()
        self._dtype, self._device, self._parts = dtype, device, parts
        self._pinned = device == torch.device("cpu") and torch.cuda.is_available()
        self._keys = torch.empty(0, dtype=torch.int64)
        self._columns: tuple[Tensor, ...] = ()
        self._count = 0
        self._indices: list[tuple[Tensor, ...]] = []
        self._index()

    def __len__(self) -> int:
        """The number of studies that have a slot."""
        return self._count

    @property
    def is_begun(self) -> bool:
        """Whether anything was written, on whatever rank: `read` and `entries` then have their columns, also of no study."""
        return bool(self._columns)

    @property
    def nbytes(self) -> int:
        """The bytes of all that is kept."""
        indices = (kept for index in self._indices for kept in index)
        return sum(kept.nbytes for kept in (self._keys, *self._columns, *indices))

    def slots_of(self, study_keys: Tensor) -> Tensor:
        """The slots of study keys, int64 of any shape, on the device of the memory; -1 for a study without a slot."""
        self._to(study_keys.device)
        study_keys = study_keys.to(self._keys.device)
        found = torch.full_like(study_keys, -1)
        for ordered, slots in self._indices:
            if len(ordered):
                position = find_keys(ordered, study_keys)
                found = torch.where(position < 0, found, slots[position])
        return found

    def read(self, slots: Tensor) -> tuple[Tensor, ...]:
        """The columns of slots `(...)`, each `(..., *its shape)`; slot -1 reads an arbitrary row."""
        return tuple(column[slots] for column in self._columns)

    @torch.no_grad()
    def write(self, study_keys: Tensor, *columns: Tensor) -> None:
        """Write the rows of N studies; of several rows of one study the first counts.

        Args:
            study_keys: `(N,)` int64; a row with an `UNKNOWN` key is left out.
            columns: `(N, ...)` each, the same number and shapes at each call.
        """
        self._to(study_keys.device)
        is_repeated = (study_keys[:, None] == study_keys).tril(-1).any(dim=1)
        rows = ((study_keys != UNKNOWN) & self._parts.are_own(study_keys) & ~is_repeated).nonzero()[:, 0]
        keys, columns = study_keys[rows].to(self._keys.device), tuple(column[rows] for column in columns)
        slots = self.slots_of(keys)
        new = (slots < 0).nonzero()[:, 0]
        if len(new) or not self.is_begun:
            slots[new] = torch.arange(self._count, self._count + len(new), device=slots.device)
            self._grow(self._count + len(new), columns)
        for memory, values in zip((self._keys, *self._columns), (keys, *columns), strict=True):
            memory[slots] = values.to(memory)
        if len(new):
            self._count += len(new)
            self._index_latest()

    def entries(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Study keys and columns of all studies that have a slot, views of the memory.

        Args:
            device: as of `ReportQueue.entries`.
        """
        if device is not None:
            self._to(device)
        return tuple(column[: self._count] for column in (self._keys, *self._columns))

    def get_extra_state(self) -> dict[str, Any]:
        """The state in a checkpoint, of this part alone (`whole_parts`)."""
        own = self._parts.are_own(self.entries()[0])
        keys, *columns = (column[own] for column in self.entries())
        return {"keys": keys, "columns": columns, **self._parts.label}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint, whatever its dtype and its parts were.

        Raises:
            UserError: it is that of another part.
        """
        self._parts.require_whole(state)
        keys, columns = state["keys"], tuple(state["columns"])
        self._keys, self._columns, self._count = keys[:0].to(self._device or keys.device), (), 0
        if columns:
            own = self._parts.are_own(keys).nonzero()[:, 0]
            self._grow(len(own), columns)
            for memory, values in zip((self._keys, *self._columns), (keys, *columns), strict=True):
                memory[: len(own)] = values[own].to(memory)
            self._count = len(own)
        self._index()

    def _to(self, device: torch.device) -> None:
        device = self._device or device
        if self._keys.device != device:
            self._keys = self._keys.to(device)
            self._columns = tuple(column.to(device) for column in self._columns)
            self._index()

    def _grow(self, needed: int, columns: tuple[Tensor, ...]) -> None:
        if needed <= len(self._keys) and self.is_begun:
            return
        capacity = max(1024, needed, len(self._keys) * 5 // 4)
        self._keys = self._longer(self._keys, capacity)
        # one after the other, so that at most one is there twice
        grown, self._columns = list(self._columns or (self._none_of(column) for column in columns)), ()
        for place, column in enumerate(grown):
            grown[place] = self._longer(column, capacity)
        self._columns = tuple(grown)

    def _none_of(self, column: Tensor) -> Tensor:
        dtype = self._dtype if column.is_floating_point() else None
        return column[:0].to(self._keys.device, dtype or column.dtype)

    def _longer(self, column: Tensor, capacity: int) -> Tensor:
        memory = column.new_zeros(capacity, *column.shape[1:], pin_memory=self._pinned)
        memory[: len(column)] = column
        return memory

    def _index(self) -> None:
        """Sort the keys of all, with their slots."""
        self._indices = [tuple(self._keys[: self._count].sort())]

    def _index_latest(self) -> None:
        """Sort the keys of those that came since all were sorted, while they are few: all at each step would take seconds."""
        settled = len(self._indices[0][0])
        if self._count - settled > max(LATEST, settled // 64):
            self._index()
        else:
            keys, order = self._keys[settled : self._count].sort()
            self._indices[1:] = [(keys, order + settled)]
