"""A further parameter group in an optimizer that a host has made, with the host's learning-rate schedulers."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hardneg_plugin.errors import UserError

_PER_GROUP = ("base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums")
"""Attributes of torch's schedulers that are lists with one entry for each parameter group."""


def add_group(configured: Any, parameters: Mapping[str, nn.Parameter]) -> None:
    """Add a group of parameters to the first optimizer that `configure_optimizers` returned, in place.

    The group has the options of the optimizer's first group but no weight decay, and follows its learning rate under every
    scheduler. Without an optimizer, or without a parameter to train, nothing happens.

    Args:
        configured: an optimizer, or optimizers and schedulers in a form that Lightning accepts.
        parameters: by name; frozen ones are left out.

    Raises:
        UserError: an optimizer that cannot take another group.

    >>> import torch
    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.01)
    >>> add_group(optimizer, {"scale": nn.Parameter(torch.zeros(1))})
    >>> [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    [(0.1, 0.01), (0.1, 0.0)]
    """
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    optimizer = _first_optimizer(configured)
    if optimizer is None or not trained:
        return
    if type(optimizer).__name__ in ("LBFGS", "Muon"):
        raise UserError(
            f"{type(optimizer).__name__} cannot train the objective's parameters ({', '.join(trained)}): train with another "
            "optimizer, or freeze them by requires_grad_(False)."
        )
    first = optimizer.param_groups[0]
    options = {key: value for key, value in first.items() if key not in ("params", "param_names", "name")}
    options = deepcopy(options)  # a learning rate may be a tensor, which schedulers change in place
    if "weight_decay" in options:
        options["weight_decay"] = 0.0
    if "name" in first:  # LearningRateMonitor wants them unique
        options["name"] = "hard_negatives"
    group = list(trained.items()) if "param_names" in first else list(trained.values())
    optimizer.add_param_group({"params": group, **options})
    for scheduler in _schedulers(configured):
        for name in _PER_GROUP:
            values = getattr(scheduler, name, None)
            if isinstance(values, list):
                # a new list: schedulers may share one
                setattr(scheduler, name, [*values, values[0]])


def _first_optimizer(configured: Any) -> Optimizer | None:
    if isinstance(configured, Mapping):
        return _first_optimizer(configured.get("optimizer"))
    if isinstance(configured, Sequence):
        return _first_optimizer(configured[0]) if configured else None
    # LightningOptimizer wraps one
    inner = getattr(configured, "optimizer", configured)
    return inner if isinstance(inner, Optimizer) else None


def _schedulers(configured: Any) -> Iterator[Any]:
    """Schedulers in what a host returned, and those inside them."""
    if isinstance(configured, Mapping):
        for key in ("lr_scheduler", "scheduler"):
            yield from _schedulers(configured.get(key))
    elif isinstance(configured, Sequence):
        for one in configured:
            yield from _schedulers(one)
    elif configured is not None and not isinstance(configured, Optimizer):
        yield configured
        yield from _schedulers(getattr(configured, "_schedulers", None))
