"""Embeddings that outlive their step: a queue of the latest studies, and a bank with a slot per study.

Both are part of the checkpoint, as extra state and not as buffers: DDP sends the buffers of a model from rank 0 to all ranks at
every step, averaging callbacks average them, and a change of precision casts them. Ranks agree because each is given the rows
of all ranks in the same order.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import require_count
from hardneg_plugin.functional.match_keys import UNKNOWN, find_keys
from hardneg_plugin.objectives.study_parts import StudyParts


class ReportQueue(nn.Module):
    """The embeddings of the latest `size` studies, first in, first out.

    Args:
        size: studies kept, a positive integer. Memory is allocated by the first push.

    >>> queue = ReportQueue(size=3)
    >>> queue.push(torch.randn(4, 8), torch.randn(4, 8), torch.arange(4)[:, None])
    >>> len(queue), sorted(queue.entries()[2].flatten().tolist())
    (3, [1, 2, 3])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        require_count(size, "size of a queue")
        self.size = size
        self._columns: tuple[Tensor, ...] = ()  # one row more, for what is left out
        self._pushed = torch.zeros((), dtype=torch.int64)  # of the device: how many are left out is known there alone
        self._offered = 0

    def __len__(self) -> int:
        """The number of places in use; those of studies that were left out are empty until others come (`filled`)."""
        return min(self._offered, self.size)

    @torch.no_grad()
    def push(self, images: Tensor, reports: Tensor, keys: Tensor, kept: Tensor | None = None) -> None:
        """Add N studies, of which the last `size` stay, in place of the oldest; no wait for the device.

        Args:
            images, reports: `(N, D)` embeddings.
            keys: `(N, M)` int64 match keys.
            kept: `(N,)` bool, False for a study that is left out, as if it had not come; None: all are kept.
        """
        columns = (images, reports, keys)
        if not self._columns:
            self._columns = tuple(column.new_zeros(self.size + 1, *column.shape[1:]) for column in columns)
        self._to(images.device)
        kept = torch.ones(len(images), dtype=torch.bool, device=images.device) if kept is None else kept
        number, count = kept.cumsum(0), kept.sum()  # from 1, of those that are kept
        stays = kept & (count - number < self.size)
        places = torch.where(stays, (self._pushed + number - 1) % self.size, self.size)
        for column, new in zip(self._columns, columns, strict=True):
            column[places] = new
        self._pushed = self._pushed + count
        self._offered += len(images)

    def filled(self, device: torch.device | None = None) -> Tensor:
        """`(len,)` bool: which places hold a study.

        Args:
            device: as of `entries`.
        """
        if device is not None:
            self._to(device)
        return torch.arange(len(self), device=self._pushed.device) < self._pushed

    def entries(self, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Images `(len, D)`, reports `(len, D)` and keys `(len, M)`, views of the memory. The queue must not be empty.

        Args:
            device: that the memory moves to, as a checkpoint leaves it on its own; None: it stays where it is.
        """
        if device is not None:
            self._to(device)
        images, reports, keys = (column[: len(self)] for column in self._columns)
        return images, reports, keys

    def _to(self, device: torch.device) -> None:
        self._columns = tuple(column.to(device) for column in self._columns)
        self._pushed = self._pushed.to(device, non_blocking=True)

    def get_extra_state(self) -> dict[str, Any]:
        """The state in a checkpoint."""
        pushed = int(self._pushed)
        return {"columns": [column[: min(pushed, self.size)].clone() for column in self._columns], "pushed": pushed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; a queue of another size keeps the latest studies that fit."""
        self._columns, self._pushed, self._offered = (), torch.zeros_like(self._pushed), 0
        if not state["pushed"]:
            return
        # oldest first: in a full queue the oldest is where the next study would go
        filled = len(state["columns"][0])
        oldest = state["pushed"] % filled if state["pushed"] > filled else 0
        if filled == self.size:
            self._columns = tuple(torch.cat([column, column[:1]]) for column in state["columns"])
            self._pushed, self._offered = torch.full_like(self._pushed, state["pushed"]), state["pushed"]
        else:
            images, reports, keys = (column.roll(-oldest, 0) for column in state["columns"])
            self.push(images, reports, keys)


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
        return sum(kept.untyped_storage().nbytes() for kept in (self._keys, *self._columns, self._sorted, self._slots))

    def slots_of(self, study_keys: Tensor) -> Tensor:
        """The slots of study keys, int64 of any shape, on the device of the memory; -1 for a study without a slot."""
        self._to(study_keys.device)
        position = find_keys(self._sorted, study_keys.to(self._keys.device))
        if not len(self):
            return position
        return torch.where(position < 0, position, self._slots[position])

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
            self._index()

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
        self._sorted, self._slots = self._keys[: self._count].sort()
