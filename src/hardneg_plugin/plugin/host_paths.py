"""Dotted paths into a host's submodules and into values, with errors that say what there is."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from hardneg_plugin.errors import UserError

SEE = "describe(host, batch) lists what there is."
"""What errors of paths end with."""


def find_module(host: nn.Module, path: str, name: str) -> tuple[nn.Module, list[str]]:
    """The submodule at the longest prefix of a dotted path, and the keys after it: "encoder.1" is a layer or an output.

    Args:
        host: the module to search.
        path: of a submodule, with or without keys.
        name: of the field, for messages.

    Raises:
        UserError: the first name of the path is no submodule.

    >>> find_module(nn.ModuleDict({"encoder": nn.Identity()}), "encoder.pooled", "images")
    (Identity(), ['pooled'])
    """
    module, keys = host, path.split(".")
    while keys and (child := _child(module, keys[0])) is not None:
        module, keys = child, keys[1:]
    if module is host:
        raise UserError(
            f"{name}={path!r}: {type(host).__name__} has no module {keys[0]!r}.{nearest_modules(host, path)} "
            f"Its modules are {_listed(key for key, _ in host.named_children())}; 'batch' and 'outputs' start other paths. {SEE}"
        )
    return module, keys


def _child(module: nn.Module, name: str) -> nn.Module | None:
    child = module._modules.get(name)
    if child is None and (compiled := module._modules.get("_orig_mod")) is not None:  # torch.compile(module)
        child = compiled._modules.get(name)
    return child


def pick(value: Any, keys: Sequence[str], place: str, hint: Callable[[], str] = str) -> Any:
    """Follow keys, indices and attributes into a value.

    Args:
        value: a mapping, sequence or object.
        keys: from the outermost.
        place: of the value, for messages.
        hint: makes a text for messages; called in case of an error only, since a search for similar paths takes long.

    Raises:
        UserError: a key that does not exist; the message lists those that do.

    >>> pick({"states": (1, 2)}, ["states", "1"], "outputs")
    2
    """
    for key in keys:
        try:
            value = _pick(value, key)
        except LookupError as error:
            raise UserError(f"{place} has no {key!r}: it is {_described(value, key)}{hint()} {SEE}") from error
        place = f"{place}.{key}"
    return value


def _pick(value: Any, key: str) -> Any:
    if isinstance(value, Tensor):  # an index would pick a study, not a feature
        raise LookupError(key)
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if re.fullmatch("-?[0-9]+", key) and hasattr(value, "__getitem__"):
        return value[int(key)]
    if isinstance(value, Mapping) or not hasattr(value, key):
        raise LookupError(key)
    return getattr(value, key)


def _described(value: Any, key: str) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}."
    if isinstance(value, Mapping):
        names, kind = [str(name) for name in value], "keys"
    elif isinstance(value, Sequence) and not hasattr(value, "_fields"):
        return f"a {type(value).__name__} of {len(value)}."
    else:
        attributes: Any = getattr(value, "_fields", None) or getattr(value, "__dict__", ())
        names, kind = [name for name in attributes if not name.startswith("_")], "attributes"
    return f"a {type(value).__name__} with the {kind} {_listed(names)}.{_nearest(key, names)}"


def nearest_modules(host: nn.Module, path: str) -> str:
    """The question whether one of the most similar paths was meant; empty without any.

    Args:
        host: the module to search.
        path: that may be misspelt.
    """
    return _nearest(path, [name for name, _ in host.named_modules() if name not in ("", path)])


def _nearest(name: str, names: Sequence[str]) -> str:
    nearest = get_close_matches(name, names, n=3)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
