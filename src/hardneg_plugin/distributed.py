"""Ranks that work together: the rows of all on every rank, means and sums, and gradients averaged.

Everything here uses the default process group; without one there is one rank.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def warn_on_first_rank(message: str) -> None:
    """Warn on rank 0, which launchers name in the environment before there is a process group."""
    launched = (os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if os.environ.get(name))
    rank = dist.get_rank() if world_size() > 1 else int(next(launched, 0))
    if rank == 0:
        warnings.warn(message, stacklevel=3)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over the ranks of values of one shape, on every rank, detached; one collective."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def share_of_ranks(count: Tensor) -> Callable[[], Tensor] | None:
    """By what the mean of this rank is multiplied so that the mean over ranks is that of all together; one collective.

    The exchange begins here and is waited for where the share is asked for: what is computed in between hides it.

    Args:
        count: of what this rank's mean is over, a scalar.

    Returns:
        gives `count ranks / Σ counts`, a scalar; None with one rank.
    """
    if world_size() == 1:
        return None
    own = count.detach().float()  # in which counts are exact up to 16 million
    total = own.clone()
    exchange = dist.all_reduce(total, async_op=True)

    def share() -> Tensor:
        exchange.wait()
        return own * world_size() / total.clamp_min(torch.finfo(torch.float32).tiny)

    return share


def of_all_ranks(value: T) -> list[T]:
    """The value of each rank, in their order; a collective call.

    Args:
        value: that can be pickled.
    """
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_first_rank(values: Tensor) -> Tensor:
    """The values of rank 0 on every rank; shape and dtype must agree between ranks; one collective."""
    if world_size() > 1:
        values = values.contiguous()
        dist.broadcast(values, src=0)
    return values


def is_shard(value: Any) -> bool:
    """Whether a value is a `DTensor`, of which each rank holds a part.

    >>> is_shard(torch.zeros(2))
    False
    """
    # whoever made one has imported its module, which takes long
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def is_part(value: Any) -> bool:
    """Whether a value of a state dict is what one rank holds of a state that is spread over ranks.

    >>> is_part({"keys": torch.zeros(2), "part": (0, 2)})
    True
    """
    return isinstance(value, Mapping) and "part" in value


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks, in place, where no wrapper of the model does so; one collective per dtype.

    Call it on all ranks after a backward pass and before gradients are clipped. It may follow each of several accumulated backward
    passes: the mean of a mean is the mean. A rank without a gradient counts as zero; without one on any rank there is none.

    Args:
        parameters: the same ones in the same order on all ranks; frozen and sharded ones (`DTensor`) are left out.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> (3 * weight).sum().backward()
    >>> average_gradients([weight])  # one rank: as it was
    >>> weight.grad
    tensor([3., 3.])
    """
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad and not is_shard(parameter):
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for alike in by_dtype.values():
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in alike]
        exist = alike[0].new_tensor([float(p.grad is not None) for p in alike])
        *sums, ranks_with_one = _summed([*gradients, exist])
        for parameter, total, ranks in zip(alike, sums, ranks_with_one.tolist(), strict=True):
            if ranks:
                mean = total / world_size()
                parameter.grad = mean if parameter.grad is None else parameter.grad.copy_(mean)


def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums over the ranks of tensors of one dtype and device; one collective."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    return [
        part.view_as(tensor) for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)
    ]


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

    @classmethod
    def with_sum(cls, rows: Tensor) -> tuple["Shards", Tensor]:
        """As `of`, and the sum over the rows of all ranks `(D,)` in float32, detached; one collective, which waits for the device.

        Args:
            rows: `(B, D)`, of this rank.
        """
        total = rows.detach().float().sum(0)
        if world_size() == 1:
            return cls(0, (len(rows),)), total
        # float32 has all integers up to 16 million
        own = torch.cat([torch.tensor([float(len(rows))], device=rows.device), total])
        of_ranks = own.new_empty(world_size(), len(own))
        dist.all_gather(list(of_ranks.unbind()), own)
        return cls(dist.get_rank(), tuple(int(size) for size in of_ranks[:, 0].tolist())), of_ranks[:, 1:].sum(0)

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

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks `(N, ...)` in the order of the ranks, from the local ones `(B, ...)`.

        The gradient of a row is the sum of those from all ranks' losses; one collective each way. Dtype and trailing shape must
        agree between ranks.
        """
        if len(self.sizes) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def gather_with(self, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """`gather`, and other values of the same rows without gradient in the same collective.

        Args:
            rows: `(B, D)`.
            others: `(B, E)` of any dtype.
        """
        if len(self.sizes) == 1:
            return rows, others
        gathered: tuple[Tensor, Tensor] = _GatherWith.apply(rows, others, self)
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
        return _gathered(rows, shards)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed_gradient(gradients[0], ctx.local), None


class _GatherWith(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor, shards: Shards) -> tuple[Tensor, Tensor]:
        ctx.local = shards.local
        both = (rows, others)
        packed = torch.cat([part.contiguous().view(torch.uint8) for part in both], dim=1)
        widths = [part.shape[1] * part.element_size() for part in both]
        parts = zip(both, _gathered(packed, shards).split(widths, dim=1), strict=True)
        all_rows, all_others = (values.contiguous().view(part.dtype) for part, values in parts)
        ctx.mark_non_differentiable(all_others)
        return all_rows, all_others

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _summed_gradient(gradients[0], ctx.local), None, None


def _gathered(rows: Tensor, shards: Shards) -> Tensor:
    padded = rows.new_zeros(max(shards.sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in shards.sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, shards.sizes, strict=True)])


def _summed_gradient(gradient: Tensor, local: slice) -> Tensor:
    total = gradient.clone()
    dist.all_reduce(total)
    return total[local]
