"""A step of a host that leaves no trace: for a look at what the host computes."""

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import numpy
import torch
from torch import nn

from hardneg_plugin.plugin.lightning_hosts import lightning_module_of

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_SILENT = (
    "log", "log_dict", "print", "manual_backward", "clip_gradients", "toggle_optimizer", "untoggle_optimizer", "lr_schedulers",
)  # fmt: skip
"""Methods of a LightningModule that do nothing meanwhile."""


def one_step(host: nn.Module, batch: Any) -> Any:
    """What one step of a host returns: of its `training_step`, without the objective, or of its forward where there is none.

    Args:
        host: a LightningModule, plugged or not, or any module.
        batch: as the step gets it.
    """
    batch = copy(batch) if isinstance(batch, dict | list) else batch  # a step may take entries out of it
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

    Meanwhile it logs nothing. What it changes within objects other than lists, dicts and sets remains.
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
            object.__setattr__(host, "optimizers", lambda *args, **kwargs: _idle_optimizers(host))
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


class _IdleOptimizer:
    """An optimizer for a step that optimises manually: its methods do nothing."""

    def __getattr__(self, name: str) -> Any:
        return nullcontext if name == "toggle_model" else _nothing


def _idle_optimizers(host: Any) -> Any:
    """One for each optimizer that the host configures, as `LightningModule.optimizers` returns them."""
    configured = host.configure_optimizers()
    if isinstance(configured, list | tuple) and configured and isinstance(configured[0], list | tuple):
        configured = configured[0]  # optimizers and schedulers
    count = len(configured) if isinstance(configured, list | tuple) else 1
    return _IdleOptimizer() if count == 1 else [_IdleOptimizer() for _ in range(count)]


def _the_loss(loss: Any, batch: Any, outputs: Any) -> Any:
    return loss


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """An attribute and, of a list, dict or set, a copy."""
    own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    return {name: (value, value.copy() if type(value) in (list, dict, set) else None) for name, value in own.items()}


def _restore(module: nn.Module, saved: dict[str, tuple[Any, Any]]) -> None:
    own = vars(module)
    for name in own.keys() - saved.keys() - _OF_EVERY_MODULE:
        del own[name]
    for name, (value, content) in saved.items():
        own[name] = value
        if content is not None:  # without comparing: it may hold tensors
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)
