"""The weights of the bare host, and those of the objective that is plugged into it."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hardneg_plugin.distributed import warn_on_first_rank
from hardneg_plugin.errors import UserError

PREFIX = "hard_negatives."
"""Of the objective's names in the state dict of a plugged host."""


def host_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a plugged host without its objective, which loads into the bare class.

    `model.state_dict()` itself has the weights of the objective, too; checkpoints of Lightning keep them beside those of the host.

    Args:
        model: plugged or not, also compiled or wrapped by DDP.

    >>> model = nn.ModuleDict({"encoder": nn.Linear(2, 2, bias=False), "hard_negatives": nn.Linear(2, 2)})
    >>> list(host_state_dict(model))
    ['encoder.weight']
    """
    while (inner := _wrapped(model)) is not None:
        model = inner
    state = dict(model.state_dict())
    take_out(state)
    return state


def take_out(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Remove the entries of the objective from a model's state dict, and return them without their prefix."""
    names = [name for name in state_dict if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): state_dict.pop(name) for name in names}


def settings_of(objective: nn.Module) -> dict[str, str]:
    """What an objective is made of, in words: for a checkpoint, to be compared, not to be read back.

    >>> settings_of(nn.Dropout(0.5))
    {'p': '0.5', 'inplace': 'False'}
    """
    own = {name: value for name, value in vars(objective).items() if name not in vars(nn.Module())}
    own |= dict(objective.named_children())
    # without addresses, which are of one process, and without the whole of a long list
    return {name: re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:400] for name, value in own.items()}


def check_default_fits(
    weights: Mapping[str, Any], settings: Mapping[str, str], objective: nn.Module, model: str
) -> None:
    """Check an objective that nobody chose against that of a checkpoint; warn where it has other settings.

    Args:
        weights: of the checkpoint's objective.
        settings: of the checkpoint's objective, from `settings_of`; empty if unknown.
        objective: the default one.
        model: name of the plugged class, for messages.

    Raises:
        UserError: weights that the default one does not have, or has in other shapes.
    """
    own = objective.state_dict()
    # a queue or a bank is no tensor
    other = [
        name
        for name, value in weights.items()
        if name not in own or getattr(own[name], "shape", None) != getattr(value, "shape", None)
    ]
    if other:
        raise UserError(
            f"The checkpoint holds an objective with the weights {', '.join(other)}, which do not fit the default one of {model}: "
            f"pass the objective that was trained, {model}.load_from_checkpoint(path, hard_negatives=HardNegativeObjective(...)). "
            "For inference, load the host's own class."
        )
    here = settings_of(objective)
    differing = [
        f"{name}={value} instead of {here[name]}" for name, value in settings.items() if here.get(name, value) != value
    ]
    if differing:
        warn_on_first_rank(
            f"The checkpoint's objective has {', '.join(differing)}, which the default one of {model} has: to train on with "
            "the same, pass the objective by hard_negatives=."
        )


def _wrapped(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model._modules.get("_orig_mod")  # torch.compile(model)
