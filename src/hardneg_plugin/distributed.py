"""Rows of all ranks on every rank: a gather that keeps the gradient and takes batches of different sizes.

Everything here speaks to the default process group and does nothing where there is none.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of each rank's values, of their shape, on every rank and detached; one collective."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def from_first_rank(values: Tensor) -> Tensor:
    """Rank 0's values on every rank, whose shape and dtype must agree; one collective."""
    if world_size() > 1:
        values = values.contiguous()
        dist.broadcast(values, src=0)
    return values


@dataclass(frozen=True)
class Shards:
    """How the rows of one step are spread over the ranks: the rank asked, and the rows of each."""

    rank: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, rows: int, device: torch.device) -> "Shards":
        """Tell the other ranks how many rows this one has, and learn theirs; one collective.

        Reading the sizes waits for the device: the gathers after it have to know their shapes.
        """
        if world_size() == 1:
            return cls(0, (rows,))
        own = torch.tensor([rows], device=device)
        sizes = own.new_empty(world_size(), 1)
        dist.all_gather(list(sizes.unbind()), own)
        return cls(dist.get_rank(), tuple(sizes.flatten().tolist()))

    def mean(self, losses: Tensor) -> Tensor:
        """What each rank returns as its loss for the mean over all ranks' rows: own losses `(B,)` to a scalar.

        DDP averages the ranks' gradients, and the ranks' values are averaged for the log. Ranks with more rows must count for
        more: `Σ own · ranks / rows of all`.
        """
        return losses.sum() * (len(self.sizes) / sum(self.sizes))

    def gather_parts(self, parts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`gather` of rows with parts, of which ranks may have different numbers: `(B, P, D)` and their mask `(B, P)` bool.

        They are padded to the longest of all ranks; three collectives, and one for the gradient.
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
        """The sum over the rows of all ranks `(...)`, detached, from the own ones `(B, ...)`; one collective."""
        total = rows.detach().sum(0)
        if len(self.sizes) > 1:
            dist.all_reduce(total)
        return total

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks `(N, ...)` in the order of the ranks, from the own ones `(B, ...)`.

        The gradient of every rank's loss with respect to a row reaches the row's owner, summed; one collective each way. Dtype
        and trailing shape must agree between ranks.
        """
        if len(self.sizes) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    @property
    def local(self) -> slice:
        """Where the own rows are among those of all ranks."""
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
