"""A bank that is spread over ranks: which of them holds which study, and how rows get to those that want them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hardneg_plugin.distributed import Shards, is_part, rank, world_size
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import UNKNOWN

CHUNK = 65_536
"""Rows that travel to all ranks at a time, which bounds the memory for them."""


@dataclass(frozen=True)
class StudyParts:
    """The parts of a bank. A study belongs to one rank, which follows from its key and the number of ranks.

    Args:
        sharded: each rank holds a part; False: each holds all studies, and nothing is exchanged.

    >>> parts = StudyParts(sharded=True)
    >>> parts.ranks, parts.are_own(torch.tensor([3, 7]))  # without a process group
    (1, tensor([True, True]))
    """

    sharded: bool = False

    @property
    def ranks(self) -> int:
        """The number of parts."""
        return world_size() if self.sharded else 1

    @property
    def rank(self) -> int:
        """The part of this rank."""
        return rank() if self.sharded else 0

    @property
    def label(self) -> dict[str, Any]:
        """What marks a state as that of a part; empty where a part is the whole."""
        return {"part": (self.rank, self.ranks)} if self.ranks > 1 else {}

    def require_whole(self, state: Mapping[str, Any]) -> None:
        """Check that a state is that of a whole bank, or of this very part.

        Raises:
            UserError: it is that of another part.
        """
        if is_part(state) and tuple(state["part"]) != (self.rank, self.ranks):
            number, of = state["part"]
            raise UserError(
                f"negatives=bank: expected the state of a whole bank, but got that of rank {number} of {of} alone: call "
                "whole_parts(module.state_dict(), device) on all ranks, and save what rank 0 gets."
            )

    def are_own(self, keys: Tensor) -> Tensor:
        """Which studies this rank holds.

        Args:
            keys: int64 study keys of any shape.
        """
        return self._owners(keys) == self.rank

    def sizes(self, rows: int, device: torch.device) -> tuple[int, ...]:
        """The numbers of rows of all parts; one collective.

        Args:
            rows: of this part.
            device: of the collective.
        """
        return Shards.of(rows, device).sizes if self.ranks > 1 else (rows,)

    def combined(self, values: Tensor, keys: Tensor) -> Tensor:
        """Integers that only the rank of a study knows, on all ranks; one collective.

        Args:
            values: `(N, P)` of N studies, the same number on all ranks; those of studies that others hold are not read.
            keys: `(N,)` study keys, the same on all ranks.
        """
        if self.ranks == 1:
            return values
        own: Tensor = values.where(self.are_own(keys)[:, None], 0)
        dist.all_reduce(own)  # all but one of the addends are zero
        return own

    def fetch(
        self, wanted: Tensor, sizes: Sequence[int], read: Callable[[Tensor], Sequence[Tensor]]
    ) -> tuple[Tensor, ...]:
        """The rows of the studies that this rank wants, from the ranks that hold them; one collective.

        All ranks know what all want, so nothing is asked for: each sends what it holds.

        Args:
            wanted: `(N, P)` study keys, of the rows of all ranks in the ranks' order; the rows of `UNKNOWN` are zero.
            sizes: how many of the N are of each rank.
            read: gives the columns `(..., W)` of study keys `(...)` of this part.

        Returns:
            Columns `(B, P, W)` for the B rows of this rank.
        """
        if self.ranks == 1:
            return tuple(read(wanted))
        nobody = self.ranks
        owners = self._owners(wanted).masked_fill(wanted == UNKNOWN, nobody)
        columns = read(wanted[owners == self.rank])
        packed = torch.cat([column.contiguous().view(torch.uint8) for column in columns], dim=1)
        # how many rows go from each rank to each
        receivers = torch.arange(self.ranks, device=wanted.device).repeat_interleave(torch.tensor(sizes).to(wanted))
        routes = (owners * self.ranks + receivers[:, None]).flatten()
        counts = routes.bincount(minlength=(nobody + 1) * self.ranks).view(-1, self.ranks).tolist()
        incoming = [counts[owner][self.rank] for owner in range(self.ranks)]
        received = packed.new_empty(sum(incoming), packed.shape[1])
        dist.all_to_all_single(received, packed, incoming, counts[self.rank])
        # they come by rank, and from each in the order of `wanted`
        local = owners.split(list(sizes))[self.rank]
        places = local.flatten().argsort(stable=True)[: len(received)]
        rows = packed.new_zeros(local.numel(), packed.shape[1])
        rows[places] = received
        widths = [column.shape[1] * column.element_size() for column in columns]
        fetched = zip(columns, rows.view(*local.shape, -1).split(widths, dim=-1), strict=True)
        return tuple(part.contiguous().view(column.dtype) for column, part in fetched)

    def chunks(self, columns: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
        """The rows of all parts in the order of the ranks, `CHUNK` at a time, on every rank; a collective for each column.

        Args:
            columns: `(S, ...)` of this part, S rows each.
            device: that the rows are brought to.
        """
        for owner, size in enumerate(self.sizes(len(columns[0]), device)):
            for start in range(0, size, CHUNK):
                rows = slice(start, min(start + CHUNK, size))
                if owner == self.rank:
                    chunk = tuple(column[rows].to(device, non_blocking=True).contiguous() for column in columns)
                else:
                    length = rows.stop - start
                    chunk = tuple(column.new_empty(length, *column.shape[1:], device=device) for column in columns)
                if self.ranks > 1:
                    for column in chunk:
                        dist.broadcast(column.view(torch.uint8), src=owner)
                yield chunk

    def _owners(self, keys: Tensor) -> Tensor:
        # the bits in the middle of a product depend on all below: ids in a row or all even spread evenly, too
        return ((keys * -7046029254386353131 >> 32) & 0x7FFF_FFFF) % self.ranks


def whole_parts(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A state dict with the parts of all ranks put together, on rank 0; a collective call if there are parts.

    Rank 0 takes them into host memory; on no device there is more than a chunk.

    Args:
        state: of a module on all ranks, such as an objective with a sharded bank.
        device: of the collectives.

    Returns:
        The whole on rank 0, the state as it is on others.

    >>> whole_parts({"weight": torch.ones(2)}, torch.device("cpu"))
    {'weight': tensor([1., 1.])}
    """
    return {name: _whole(value, device) if is_part(value) else value for name, value in state.items()}


def _whole(state: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    whole = tree_map_only(Tensor, lambda rows: _of_all(rows, device), dict(state))
    if rank() > 0:
        return state
    del whole["part"]
    return dict(whole)


def _of_all(rows: Tensor, device: torch.device) -> Tensor:
    parts = StudyParts(sharded=True)
    total = sum(parts.sizes(len(rows), device))
    whole = rows.new_empty(total if parts.rank == 0 else 0, *rows.shape[1:], device="cpu")
    filled = 0
    for (chunk,) in parts.chunks([rows], device):
        if parts.rank == 0:
            whole[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    return whole
