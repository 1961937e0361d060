"""Tensors that say they are on another device and compute on the CPU: what mixes devices fails as it would on a GPU."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

DEVICE = torch.device("meta")  # one that needs no driver
INDEXING = {"aten::index", "aten::index_put_"}


class OnDevice(Tensor):
    """A tensor of the pretended device; `held` has its values."""

    def __new__(cls, held: Tensor) -> "OnDevice":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """Within it new tensors of the device are `OnDevice`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket._qualified_op_name
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [isinstance(value, OnDevice) for value in tensors]
    if name in INDEXING:  # indices may be on the CPU
        assert there[0] or not any(there), f"{name} of a tensor on the CPU by one on the device"
    elif name not in ("aten::_to_copy", "aten::copy_"):
        numbers = (on or not value.ndim for on, value in zip(there, tensors, strict=True))
        assert not any(there) or all(numbers), f"{name} of tensors on two devices"
    is_there = bool(there) and there[0]
    if kwargs.get("device") is not None:
        is_there = torch.device(kwargs["device"]) == DEVICE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map_only(OnDevice, lambda value: value.held, (args, kwargs))
    made = func(*args, **kwargs)
    return tree_map(lambda value: OnDevice(value) if isinstance(value, Tensor) and is_there else value, made)
