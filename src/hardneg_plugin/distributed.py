"""Rows of all ranks on every rank: a gather that keeps the gradient and takes batches of different sizes.

Everything here uses the default process group; without one there is one rank.
"""

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def warn_on_first_rank(message: str) -> None:
    """Warn on rank 0, which launchers name in the environment before there is a process group."""
    rank = dist.get_rank() if world_size() > 1 else int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
    if rank == 0:
        warnings.warn(message, stacklevel=3)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over the ranks of values of one shape, on every rank, detached; one collective."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def from_first_rank(values: Tensor) -> Tensor:
    """The values of rank 0 on every rank; shape and dtype must agree between ranks; one collective."""
    if world_size() > 1:
        values = values.contiguous()
        dist.broadcast(values, src=0)
    return values


@dataclass(frozen=True)
class Shards:
    """How the rows of one step are spread over the ranks.

    >>> shards = Shards.of(3, torch.device("cpu"))
    >>> shards.sizes, shards.local
    ((3,), slice(0, 3, None))
    """

    rank: int
    """This rank."""
    sizes: tuple[int, ...]
    """The number of rows on each rank."""

    @classmethod
    def of(cls, rows: int, device: torch.device) -> "Shards":
        """Exchange the numbers of rows; one collective, which waits for the device: gathers need to know their shapes.

        Args:
            rows: of this rank.
            device: of the collective.
        """
        if world_size() == 1:
            return cls(0, (rows,))
        size = torch.tensor([rows], device=device)
        sizes = size.new_empty(world_size(), 1)
        dist.all_gather(list(sizes.unbind()), size)
        return cls(dist.get_rank(), tuple(sizes.flatten().tolist()))

    def mean(self, losses: Tensor) -> Tensor:
        """The scalar loss of this rank from the losses of its local rows `(B,)`: `Σ local · ranks / rows of all`.

        Its mean over the ranks, which DDP takes of the gradients, is the mean over the rows of all ranks.
        """
        return losses.sum() * (len(self.sizes) / sum(self.sizes))

    def gather_parts(self, parts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`gather` of rows with parts, padded to the longest of all ranks; three collectives, and one for the gradient.

        Args:
            parts: `(B, P, D)`; P may differ between ranks.
            mask: `(B, P)` bool, True where there is a part.
        """
        if len(self.sizes) == 1:
            return parts, mask
        longest = torch.tensor([parts.shape[1]], device=parts.device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        missing = int(longest) - parts.shape[1]
        padded = F.pad(parts, (0, 0, 0, missing))
        kept = F.pad(mask, (0, missing)).to(torch.uint8)  # gloo gathers no bool
        return self.gather(padded), self.gather(kept).bool()

    def sum(self, rows: Tensor) -> Tensor:
        """The sum over the rows of all ranks `(...)`, detached, from the local ones `(B, ...)`; one collective."""
        total = rows.detach().sum(0)
        if len(self.sizes) > 1:
            dist.all_reduce(total)
        return total

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks `(N, ...)` in the order of the ranks, from the local ones `(B, ...)`.

        The gradient of a row is the sum of those from all ranks' losses; one collective each way. Dtype and trailing shape must
        agree between ranks.
        """
        if len(self.sizes) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    @property
    def local(self) -> slice:
        """The places of the local rows among those of all ranks."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, shards: Shards) -> Tensor:
        ctx.local = shards.local
        padded = rows.new_zeros(max(shards.sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in shards.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, shards.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total[ctx.local], None
