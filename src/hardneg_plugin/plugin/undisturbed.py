"""A step of a host that leaves no trace: for a look at what the host computes."""

import inspect
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import numpy
import torch
from torch import nn

from hardneg_plugin.plugin.lightning_hosts import lightning_module_of

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {
    "training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set",
}  # fmt: skip
_COLLECTIONS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)
_SILENT = (
    "log", "log_dict", "print", "manual_backward", "clip_gradients", "toggle_optimizer", "untoggle_optimizer",
)  # fmt: skip
"""Methods of a LightningModule that do nothing meanwhile."""


def one_step(host: nn.Module, batch: Any) -> Any:
    """What one step of a host returns: of its `training_step`, without the objective, or of its forward where there is none.

    Args:
        host: a LightningModule, plugged or not, or any module.
        batch: as the step gets it.
    """
    batch = copy(batch) if isinstance(batch, MutableMapping | list) else batch  # a step may take entries out of it
    plugged = getattr(host, "_host_step", None)
    step = getattr(host, "training_step", None)
    if step is None:
        return host(**batch) if isinstance(batch, Mapping) else host(batch)
    parameters = list(inspect.signature(step).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    with_index = bool(parameters) and (
        parameters[0].kind in positional or parameters[0].kind == inspect.Parameter.VAR_POSITIONAL
    )
    return (plugged or step)(batch, *([0] if with_index else []))


@contextmanager
def undisturbed(host: nn.Module) -> Iterator[None]:
    """Give a host back as it was: its buffers, gradients and attributes, the modes of its modules, and the random generators.

    Meanwhile it logs nothing. What it writes into objects other than lists, dicts, sets and their like remains, and so does what it
    writes into its parameters, as momentum encoders do: a copy of all weights may not fit into memory.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in host.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in host.parameters()]
    attributes = [(module, _attributes(module)) for module in host.modules()]
    devices = {value.device.index for value in host.parameters() if value.device.type == "cuda"}
    of_python, of_numpy = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        if lightning_module_of(type(host)) is not None:
            for name in _SILENT:
                object.__setattr__(host, name, _nothing)
            object.__setattr__(host, "optimizers", lambda *args, **kwargs: _as_lightning_gives(_configured(host)[0]))
            object.__setattr__(host, "lr_schedulers", lambda: _as_lightning_gives(_configured(host)[1]) or None)
        # a step may call it, though the host is not plugged in yet
        object.__setattr__(host, "with_hard_negatives", _the_loss)
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(of_python)
        numpy.random.set_state(of_numpy)  # noqa: NPY002
        for module, saved in attributes:
            _restore(module, saved)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


class _Idle:
    """An optimizer or a scheduler for a step that optimises manually: it can be read, and its methods do nothing."""

    def __init__(self, of: Any) -> None:
        self.optimizer = self.of = of

    def step(self, closure: Any = None, *args: Any, **kwargs: Any) -> Any:
        return closure() if callable(closure) else None

    def __getattr__(self, name: str) -> Any:
        if name == "toggle_model":
            return nullcontext
        value = getattr(self.of, name, _nothing)
        return _nothing if callable(value) else value


def _configured(host: Any) -> tuple[list[Any], list[Any]]:
    """The optimizers and schedulers that a host configures."""
    configured = host.configure_optimizers()
    if not isinstance(configured, list | tuple):
        configured = [configured]
    if configured and isinstance(configured[0], list | tuple):
        optimizers, schedulers = configured
    else:
        entries = [one for one in configured if isinstance(one, dict)]
        optimizers = [one["optimizer"] if isinstance(one, dict) else one for one in configured]
        schedulers = [one["lr_scheduler"] for one in entries if "lr_scheduler" in one]
    return list(optimizers), [one["scheduler"] if isinstance(one, dict) else one for one in schedulers]


def _as_lightning_gives(entries: list[Any]) -> Any:
    idle = [_Idle(one) for one in entries]
    return idle[0] if len(idle) == 1 else idle


def _the_loss(loss: Any, batch: Any, outputs: Any) -> Any:
    return loss


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """An attribute and, of a collection, a copy."""
    own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    return {name: (value, value.copy() if type(value) in _COLLECTIONS else None) for name, value in own.items()}


def _restore(module: nn.Module, saved: dict[str, tuple[Any, Any]]) -> None:
    own = vars(module)
    for name in own.keys() - saved.keys() - _OF_EVERY_MODULE:
        del own[name]
    for name, (value, content) in saved.items():
        own[name] = value
        if content is not None and _identities(value) != _identities(content):
            value.clear()
            (value.extend if isinstance(value, list | deque) else value.update)(content)


def _identities(collection: Any) -> list[int]:
    """What tells whether a collection has changed, without a comparison of tensors."""
    values = collection.values() if isinstance(collection, dict) else ()
    return [id(one) for one in (*collection, *values)]
