"""Methods that show the signature of another: Lightning reads what a step and a constructor take."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast


def step_shown_as(step: Callable[..., Any], hosts: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a step that takes anything, with the signature of the host's.

    By it Lightning decides whether a step gets the batch's index or an iterator over batches.
    """
    # Lightning looks behind one decorator, not behind two
    hosts = getattr(hosts, "__wrapped__", hosts)
    copy = _shown_as(step, inspect.signature(hosts))
    copy.__wrapped__ = hosts  # type: ignore[attr-defined]
    return copy


def constructor_shown_as(constructor: Callable[..., Any], hosts: Callable[..., Any], own: str) -> Callable[..., Any]:
    """A copy of a constructor that takes anything and the keyword `own`, with the arguments of the host's and that one.

    By them Lightning decides which saved hyperparameters `load_from_checkpoint` passes on.
    """
    arguments = [*inspect.signature(hosts).parameters.values(), inspect.signature(constructor).parameters[own]]
    return _shown_as(constructor, inspect.Signature(sorted(arguments, key=lambda argument: argument.kind)))


def _shown_as(method: Callable[..., Any], signature: inspect.Signature) -> FunctionType:
    # a copy, not a function around it: save_hyperparameters walks up the frames
    old = cast(FunctionType, method)
    new = FunctionType(old.__code__, old.__globals__, old.__name__, old.__defaults__, old.__closure__)
    new.__kwdefaults__, new.__doc__, new.__qualname__ = old.__kwdefaults__, old.__doc__, old.__qualname__
    new.__signature__ = signature  # type: ignore[attr-defined]
    return new
