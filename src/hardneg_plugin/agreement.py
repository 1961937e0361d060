"""A check that a module has one state on all ranks."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardneg_plugin.distributed import from_first_rank, is_part, is_shard, world_size
from hardneg_plugin.errors import SharedError

ROUNDINGS = 128
"""By how many roundings of its norm a tensor may differ between ranks; training on gradients of their own soon differs by more."""


@torch.no_grad()
def check_agreement(module: nn.Module, name: str, device: torch.device | None = None) -> None:
    """Check that parameters, buffers and extra state of a module are the same on all ranks; one collective if they are.

    On devices of one kind they are the same bit for bit: gloo and NCCL give all ranks the same sum of the gradients, and each rank
    goes on from it with the same operations. Devices of two kinds may round a norm or a step of the optimizer differently, so
    parameters and buffers of floats may differ by `ROUNDINGS` of float32, or of float64 where they have it. Extra state is copied
    from rank to rank and is equal on any device. Sharded parameters (`DTensor`) and parts of a bank differ by design and are left
    out. The check reads the whole state once.

    Args:
        module: the same one on all ranks.
        name: of the module, for the message.
        device: of the collective; None: that of the module's first parameter, or the CPU.

    Raises:
        SharedError: on all ranks, if two ranks differ.

    >>> check_agreement(nn.Linear(2, 2), "head")
    """
    if world_size() == 1:
        return
    if device is None:
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    state = {key: value for key, value in module.state_dict().items() if not is_shard(value) and not is_part(value)}
    digests = torch.tensor(
        [(_digest(_kind(value)), _digest(value)) for value in state.values()] or [(0, 0)], device=device
    )
    bounds = torch.stack([digests, -digests])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
    differ = []
    for key, (is_of_one_kind, is_equal) in zip(state, (bounds[0] == -bounds[1]).tolist(), strict=False):
        if not is_equal and not (is_of_one_kind and _is_close(state[key], device)):
            differ.append(key)
    if differ:
        raise SharedError(
            f"{name}: expected the same values on all {world_size()} ranks, but {', '.join(differ)} differ: nothing averages "
            "their gradients, or ranks began with different values or saw a different number of batches."
        )


def _is_close(value: Any, device: torch.device) -> bool:
    """Whether a tensor is that of rank 0 on all ranks but for roundings; its dtype and shape must agree; two collectives."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    # as many roundings of float16 or bfloat16 would hide any difference
    rounding = min(torch.finfo(value.dtype).eps, torch.finfo(torch.float32).eps)
    own, first = value.to(device).double(), from_first_rank(value.to(device, copy=True)).double()
    is_close = (own - first).norm() <= ROUNDINGS * rounding * first.norm()
    is_far = (~is_close).to(torch.int32)  # with a NaN, too
    dist.all_reduce(is_far, op=dist.ReduceOp.MAX)
    return not is_far.item()


def _kind(value: Any) -> str:
    """Dtype and shape of a tensor, the class of anything else."""
    return f"{value.dtype}{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _digest(value: Any) -> int:
    """63 bits of a hash over tensors, nested in mappings and sequences, and plain values."""
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest, value)
    return int.from_bytes(digest.digest(), "big") >> 1


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(_kind(value).encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        _feed(digest, list(value.items()))
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())
