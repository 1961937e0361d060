"""Weights laid out for the many small products of a search on a CPU, by oneDNN.

A step of a search multiplies few rows with all weights. A plain product lays the weights out anew at every step; here they are laid
out once per search, in float32 or bfloat16.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError

Precision = Literal["bfloat16"]
"""Of the products with weights, below float32."""

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
def packed_weights(module: nn.Module, precision: Precision | None = None) -> Iterator[None]:
    """Run the products of a module on packed weights within the block.

    The weights must not change within the block. It needs float32 weights on a CPU, a PyTorch with oneDNN, no gradient and no
    autocast.

    Args:
        module: every `Packable` in it is packed.
        precision: of weights and inputs in the products; sums, biases and results are float32. None: float32, which may
            differ in the last bits, and where it is not possible the block runs as it is.

    Raises:
        UserError: `precision` is given where it is not possible.

    >>> from hardneg_plugin.backbones.linear import DecodingLinear
    >>> layer, x = DecodingLinear(3, 5), torch.rand(2, 4, 3)
    >>> with torch.no_grad(), packed_weights(layer):
    ...     torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-6)
    True
    """
    obstacle = _obstacle(module, precision)
    if precision is not None and obstacle is not None:
        raise UserError(
            f"decoding.precision: expected a model on which {precision} products can run, but {obstacle}; "
            "or leave it at null."
        )
    packable = [each for each in module.modules() if isinstance(each, Packable)] if obstacle is None else []
    try:
        for each in packable:
            each.pack(PRODUCTS[precision])
        yield
    finally:
        for each in packable:
            each.unpack()


def float32_product(weight: Tensor, bias: Tensor) -> Product:
    """The product with a packed float32 weight.

    Args:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`.
    """
    return partial(_pointwise, weight=torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()), bias=bias)


def bfloat16_product(weight: Tensor, bias: Tensor) -> Product:
    """The product of inputs and a packed weight that are rounded to bfloat16; the result, too, before the bias.

    Args:
        weight: `(out_features, in_features)` float32.
        bias: `(out_features,)` float32.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16().contiguous())
    # the sum is float32, as its wider part
    return lambda x: _pointwise(x.bfloat16(), weight=packed, bias=None) + bias


PRODUCTS: Mapping[Precision | None, Callable[[Tensor, Tensor], Product]] = {
    None: float32_product,
    "bfloat16": bfloat16_product,
}


def _pointwise(x: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _obstacle(module: nn.Module, precision: Precision | None) -> str | None:
    """Why packed weights of a precision are not possible; None: they are."""
    parameters = list(module.parameters())
    if any(each.device.type != "cpu" for each in parameters):
        return "the model is not on a CPU"
    if any(each.dtype != torch.float32 for each in parameters):
        return "its weights are not float32"
    if torch.is_grad_enabled():
        return "gradients are on"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on: set trainer.precision=32-true"
    return None if _can_compute(precision) else "this PyTorch, or this CPU, has none"


@cache
def _can_compute(precision: Precision | None) -> bool:
    """Whether this PyTorch has the operators; they are those of torch.compile, and no part of its documented interface."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight, x = torch.eye(2), torch.ones(1, 2)
    try:
        return bool(PRODUCTS[precision](weight, torch.zeros(2))(x).equal(x))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
