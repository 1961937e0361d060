"""Signatures and code of a host's methods: Lightning reads the arguments of a step and of a constructor."""

import inspect
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any, cast


def step_shown_as(step: Callable[..., Any], hosts: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a step with the host's signature, by which Lightning passes the batch's index or an iterator over batches.

    Args:
        step: takes any arguments.
        hosts: the host's step.
    """
    # Lightning looks through one decorator, not through two
    hosts = getattr(hosts, "__wrapped__", hosts)
    copy = _shown_as(step, inspect.signature(hosts))
    copy.__wrapped__ = hosts  # type: ignore[attr-defined]
    return copy


def constructor_shown_as(
    constructor: Callable[..., Any], hosts: Callable[..., Any], keywords: Sequence[str]
) -> Callable[..., Any]:
    """A copy of a constructor with the host's signature and further keywords, by which `load_from_checkpoint` passes arguments.

    Args:
        constructor: takes any arguments and `keywords`.
        hosts: the host's constructor.
        keywords: of `constructor`.
    """
    own = inspect.signature(constructor).parameters
    arguments = [*inspect.signature(hosts).parameters.values(), *(own[keyword] for keyword in keywords)]
    return _shown_as(constructor, inspect.Signature(sorted(arguments, key=lambda argument: argument.kind)))


def names_in_own_methods(kind: type, name: str) -> bool:
    """Whether code of a class, of its bases or of functions within their methods names an attribute.

    Args:
        kind: a class; of its bases, those that this package and Lightning define don't count.
        name: of the attribute.
    """
    foreign = ("hardneg_plugin.plugin.", "pytorch_lightning.", "lightning.", "torch.")
    own = [base for base in kind.__mro__ if not base.__module__.startswith(foreign)]
    methods = (
        inspect.unwrap(value) for base in own for value in vars(base).values() if isinstance(value, FunctionType)
    )
    return any(_names(method.__code__, name) for method in methods)


def _names(code: CodeType, name: str) -> bool:
    return name in code.co_names or any(_names(one, name) for one in code.co_consts if isinstance(one, CodeType))


def _shown_as(method: Callable[..., Any], signature: inspect.Signature) -> FunctionType:
    # a copy, not a function around it: save_hyperparameters walks up the frames
    old = cast(FunctionType, method)
    new = FunctionType(old.__code__, old.__globals__, old.__name__, old.__defaults__, old.__closure__)
    new.__kwdefaults__, new.__doc__, new.__qualname__ = old.__kwdefaults__, old.__doc__, old.__qualname__
    new.__signature__ = signature  # type: ignore[attr-defined]
    return new
