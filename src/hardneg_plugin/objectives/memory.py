"""Embeddings that outlive their step: a queue of the latest studies.

It is part of the checkpoint, as extra state and not as buffers: DDP sends the buffers of a model from rank 0 to all ranks at
every step, averaging callbacks average them, and a change of precision casts them. Ranks agree because each is given the rows
of all ranks in the same order.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import require_count


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
