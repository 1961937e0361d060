"""A place of features in a host: a path, a callable, or a `Feature`, which says more about a path."""

import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError, require
from hardneg_plugin.plugin.feature_pooling import kind_of

CALLS = ("mean", "last", "stack")


@dataclass(frozen=True)
class Feature:
    """A path whose module is called several times, or whose output and mask need to be brought together.

    Args:
        path: as of `plug_in`.
        calls: which calls of the module count. None: it must be called once; an integer: that call, counted from 0; "last": the
            last one; "mean": the mean over all calls; "stack": all of them as further positions, so that calls `(B, D)` give
            `(B, calls, D)`, `(B, P, D)` give `(B, calls * P, D)`, and maps `(B, C, H, W)` give `(B, calls * H * W, C)`. A mask of a
            stack has a column for each position or for each call.
        align: of a mask of T positions with a longer output. "left": an error; "right": the mask is that of the last T positions,
            and the positions before them are left out.
        mask: a place whose value masks this feature; instead of `image_mask` or `report_mask`.

    Raises:
        UserError: another value of `calls` or `align`, or a place that is none.

    >>> Feature("visual_encoder", calls="stack", mask="batch.view_mask").path
    'visual_encoder'
    """

    path: str
    calls: Literal["mean", "last", "stack"] | int | None = field(default=None, kw_only=True)
    align: Literal["left", "right"] = field(default="left", kw_only=True)
    mask: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_place("Feature", self.path)
        by_number = isinstance(self.calls, int) and not isinstance(self.calls, bool) and self.calls >= 0
        expected = "None, 'mean', 'last', 'stack' or an integer >= 0"
        require(self.calls is None or self.calls in CALLS or by_number, f"{self}.calls", expected, repr(self.calls))
        require(self.align in ("left", "right"), f"{self}.align", "'left' or 'right'", repr(self.align))
        if self.mask is not None:
            check_place(f"{self}.mask", self.mask)
        if self.path.split(".")[0] in ("batch", "outputs") and self.calls is not None:
            raise UserError(f"{self}: calls={self.calls!r} goes with the path of a module, but {self.path!r} is none.")

    def __str__(self) -> str:
        return f"Feature({self.path!r})"

    def of_calls(self, outputs: Sequence[Any], name: str) -> Any:
        """The feature of one step from what its module returned in this step.

        Args:
            outputs: call by call, at least one.
            name: of the field, for messages.

        Raises:
            UserError: no such call, or outputs that cannot be brought together.
        """
        if isinstance(self.calls, int):
            if self.calls >= len(outputs):
                raise UserError(
                    f"{name}={self}: expected at least {self.calls + 1} calls of the module, for calls={self.calls} counts from 0, "
                    f"but there were {len(outputs)}."
                )
            return outputs[self.calls]
        if self.calls in (None, "last"):
            return outputs[-1]
        for output in outputs:
            if not isinstance(output, Tensor) or output.ndim < 2:
                raise UserError(
                    f"{name}={self}: expected calls={self.calls!r} of outputs (B, D), (B, P, D) or (B, C, H, W), but got "
                    f"{kind_of(output)}: add a key or an index to the path."
                )
        parts = list(outputs) if self.calls == "mean" else [_as_positions(output) for output in outputs]
        fits = {part.shape if self.calls == "mean" else (part.shape[0], *part.shape[2:]) for part in parts}
        if len(fits) > 1:
            raise UserError(
                f"{name}={self}: expected outputs of one shape for calls={self.calls!r}, but got "
                f"{' and '.join(str(shape) for shape in dict.fromkeys(tuple(part.shape) for part in outputs))}."
            )
        return torch.stack(parts).mean(0) if self.calls == "mean" else torch.cat(parts, dim=1)

    def fitted(self, features: Any, mask: Any, calls: int) -> tuple[Any, Any]:
        """The features and their mask with the same positions, where `align` or a mask for each call says how.

        Args:
            features: of the step; `(B, T, D)` where there is a mask.
            mask: `(B, T)`, or None.
            calls: of the module.
        """
        tensors = isinstance(features, Tensor) and isinstance(mask, Tensor)
        if not tensors or features.ndim != 3 or mask.ndim != 2 or features.shape[1] == mask.shape[1]:
            return features, mask
        length, given = features.shape[1], mask.shape[1]
        if self.calls == "stack" and given == calls and length % calls == 0:
            return features, mask.repeat_interleave(length // calls, dim=1)
        if self.align == "right" and 0 < given < length:
            return features[:, -given:], mask
        return features, mask


Where = str | Feature | Callable[[Any, Any], Any] | Callable[[Any, Any, Any], Any]
"""A path, a `Feature`, or a callable `(batch, outputs)` or `(host, batch, outputs)`."""


def _as_positions(output: Tensor) -> Tensor:
    if output.ndim == 2:
        return output[:, None]
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


def check_place(name: str, where: Any) -> None:
    """Check that a value is a place.

    Args:
        name: of the field, for messages.
        where: the value.

    Raises:
        UserError: it is neither a path, a `Feature`, nor a callable of two or three arguments.
    """
    if isinstance(where, Feature):
        return
    if where == "?":
        raise UserError(f"{name}='?': print(hardneg_plugin.describe(host, batch)) lists the places to choose from.")
    if not callable(where) and (not isinstance(where, str) or "" in where.split(".")):
        raise UserError(
            f"{name}: expected a path such as 'encoder.1', 'batch.mask' or 'outputs.pooled', a Feature, "
            f"or a callable (batch, outputs) or (host, batch, outputs) -> value, but got {where!r}."
        )
    if callable(where) and _takes(where, 2) is False and not _takes(where, 3):
        raise UserError(
            f"{name}: expected a callable (batch, outputs) or (host, batch, outputs) -> value, but got "
            f"{_named(where)}{inspect.signature(where)}."
        )


def call(where: Callable[..., Any], host: nn.Module, batch: Any, outputs: Any) -> Any:
    """The value of a callable, which gets the host where it takes three arguments.

    Args:
        where: the callable.
        host: the module in training.
        batch: of the step.
        outputs: what the step returned.
    """
    return where(batch, outputs) if _takes(where, 2) is not False else where(host, batch, outputs)


def closed_over(where: Any) -> str | None:
    """The name of a module that a callable of two arguments holds, by which it would stay with the host it was written for."""
    if not callable(where) or _takes(where, 2) is False:
        return None
    return next((name for name, value in _held(where) if isinstance(value, nn.Module)), None)


def _takes(where: Callable[..., Any], count: int) -> bool | None:
    """Whether a callable can be called with this many positional arguments; None where it doesn't show its signature."""
    try:
        signature = inspect.signature(where)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _held(value: Any, depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Names and values that a function, a method or a partial holds, and those that functions among them hold."""
    found: list[tuple[str, Any]] = []
    if isinstance(value, functools.partial):
        found = [(repr(value.func), value.func), *(("an argument", one) for one in value.args), *value.keywords.items()]
    elif isinstance(value, types.MethodType):
        found = [("self", value.__self__), (value.__name__, value.__func__)]
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        for name, cell in cells:
            try:
                found.append((name, cell.cell_contents))
            except ValueError:  # not assigned yet
                continue
        loaded = {one.argval for one in dis.get_instructions(value) if one.opname == "LOAD_GLOBAL"}
        found += [(name, value.__globals__[name]) for name in loaded if name in value.__globals__]
        found += [("a default", one) for one in value.__defaults__ or ()]
    for name, one in found:
        yield name, one
        if depth:
            yield from _held(one, depth - 1)


def _named(where: Callable[..., Any]) -> str:
    return getattr(where, "__qualname__", type(where).__name__)
