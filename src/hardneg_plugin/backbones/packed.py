"""Weights laid out for the many small products of a search on a CPU, by oneDNN.

A step of a search multiplies few rows with all weights. A plain product lays the weights out anew at every step; here they are laid
out once per search.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""From `(rows, in_features)` to `(rows, out_features)`, the bias added."""


@runtime_checkable
class Packable(Protocol):
    """A module whose products can run on packed weights."""

    def pack(self, make: Callable[[Tensor, Tensor], Product]) -> None:
        """Make products of weights `(out_features, in_features)` and biases, and use them until `unpack`."""

    def unpack(self) -> None:
        """Use the weights themselves again."""


@contextmanager
def packed_weights(module: nn.Module) -> Iterator[None]:
    """Run the products of a module on packed weights within the block, where that is possible.

    The weights must not change within the block. It needs float32 weights on a CPU, a PyTorch with oneDNN, no gradient and no
    autocast; otherwise the block runs as it is. Numbers may differ in the last bits.

    Args:
        module: every `Packable` in it is packed.

    >>> from hardneg_plugin.backbones.linear import DecodingLinear
    >>> layer, x = DecodingLinear(3, 5), torch.rand(2, 4, 3)
    >>> with torch.no_grad(), packed_weights(layer):
    ...     torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-6)
    True
    """
    packable = [each for each in module.modules() if isinstance(each, Packable)] if _is_possible(module) else []
    try:
        for each in packable:
            each.pack(product)
        yield
    finally:
        for each in packable:
            each.unpack()


def product(weight: Tensor, bias: Tensor) -> Product:
    """The product with a packed float32 weight.

    Args:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`.
    """
    return partial(_product, weight=torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()), bias=bias)


def _product(x: Tensor, *, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _is_possible(module: nn.Module) -> bool:
    return (
        all(p.device.type == "cpu" and p.dtype == torch.float32 for p in module.parameters())
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _has_onednn()
    )


@cache
def _has_onednn() -> bool:
    """Whether this PyTorch has the operators; they are those of torch.compile, and no part of its documented interface."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight, x = torch.eye(2), torch.ones(1, 2)
    try:
        return bool(product(weight, torch.zeros(2))(x).equal(x))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
