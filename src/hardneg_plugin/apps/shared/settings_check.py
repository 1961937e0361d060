"""Every setting of a composed config against its type and range, before anything heavy is imported or read."""

import difflib
import importlib.util
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hardneg_plugin.apps.shared.kinds import ANY, Kind, fits, in_words, nearest
from hardneg_plugin.apps.shared.limits import limit_of
from hardneg_plugin.apps.shared.signatures import Signature, signature_of
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.trusted import trusted_targets

WITHOUT_TARGET = {"compare": "hardneg_plugin.comparison.settings.ComparisonSettings"}
"""What takes the settings below a key that names no `_target_`."""
OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


@dataclass(frozen=True)
class Setting:
    """A setting with what is known of it.

    Args:
        key: such as "trainer.max_epochs"; of a value that is only referred to, the key of what it refers to.
        value: as plain Python.
        kinds: that the annotation of the argument allows; None: it is no argument.
    """

    key: str
    value: Any
    kinds: tuple[Kind, ...] | None


def check_types(config: DictConfig, config_name: str) -> None:
    """Check the type and range of every setting.

    Args:
        config: composed.
        config_name: of the command's config.

    Raises:
        UserError: the first that is wrong, with the nearest right value.
    """
    for setting in settings_of(config):
        limit = limit_of(config_name, setting.key)
        allowed = [kinds for kinds in (setting.kinds, limit.kinds if limit else None) if kinds]
        for kinds in reversed(allowed):  # the limit first: it says more
            if not fits(setting.value, kinds):
                expected = limit.expected if limit and limit.expected and kinds is limit.kinds else in_words(kinds)
                near = nearest(setting.value, kinds)
                is_out = near is not None and limit is not None and not limit.holds(_number(near))
                raise UserError(_refused(setting, expected, None if is_out else near))
        if limit is not None and not limit.holds(setting.value):
            raise UserError(_refused(setting, limit.expected, None))
        if not _is_finite(setting.value):
            raise UserError(_refused(setting, "a finite number", None))


def _is_finite(value: Any) -> bool:
    """Whether no number of a value is NaN or infinite; those of a mapping are settings themselves."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _refused(setting: Setting, expected: str, near: str | None) -> str:
    meant = f"; did you mean {near}?" if near is not None else "."
    return f"{setting.key}: expected {expected}, but got {setting.value!r}{meant}"


def settings_of(config: DictConfig) -> Iterator[Setting]:
    """Every setting that can be resolved, with the kinds that the constructor around it allows.

    Raises:
        UserError: a constructor has no such argument.
    """
    yield from _settings(config, "", config)


def _settings(node: DictConfig, prefix: str, config: DictConfig) -> Iterator[Setting]:
    signature = _signature_at(node, prefix.removesuffix("."))
    for name in node:
        key = f"{prefix}{name!s}"
        if name in OF_HYDRA or key == "hydra":
            continue
        if signature is not None and name not in signature.arguments and not signature.is_open:
            near = difflib.get_close_matches(str(name), signature.arguments, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]}?" if near else "."
            raise UserError(f"{key}: {signature.name} takes no argument {name!s}{meant}")
        kinds = None if signature is None else signature.arguments.get(str(name), (ANY,))
        yield from _setting(node, name, key, kinds, config)


def _setting(
    node: DictConfig, name: Any, key: str, kinds: tuple[Kind, ...] | None, config: DictConfig
) -> Iterator[Setting]:
    is_reference = OmegaConf.is_interpolation(node, name)
    if is_reference and "${hydra:" in str(_raw(node, name)):
        return  # a path of this run, which is not known where a config is only composed
    try:
        value = node[name]
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:  # missing, or of a group that is not chosen: whoever needs it says so
        return
    if plain == "???":
        return
    if isinstance(value, DictConfig) and is_reference:
        return  # checked where it is
    if isinstance(value, ListConfig):
        for index, inner in enumerate(value):
            if isinstance(inner, DictConfig):
                yield from _settings(inner, f"{key}.{index}.", config)
    if not isinstance(value, DictConfig):
        yield Setting(_origin(node, name, key, config), plain, kinds)
        return
    if "_target_" in value:
        yield from _settings(value, f"{key}.", config)
        return
    yield Setting(key, plain, kinds)
    yield from _settings(value, f"{key}.", config)


def _signature_at(node: DictConfig, key: str) -> Signature | None:
    """The signature of what a node is built by; None where there is none, or no source of it.

    Raises:
        UserError: there is no such thing.
    """
    if "_target_" not in node:
        return signature_of(WITHOUT_TARGET[key]) if key in WITHOUT_TARGET else None
    target = node.get("_target_")
    named = isinstance(target, str) and re.fullmatch(r"\w+(\.\w+)+", target) is not None
    signature = signature_of(target) if named else None
    is_there = named and (signature is not None or not is_ours(target)) and has_source(target.partition(".")[0])
    if not is_there:
        near = difflib.get_close_matches(str(target), trusted_targets(), n=1, cutoff=0.6)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise UserError(
            f"{key}._target_: expected the full name of a class or function, but there is no {target!r}{meant}"
        )
    return signature


def is_ours(target: str) -> bool:
    """Whether a name is one of this package."""
    return target.partition(".")[0] == "hardneg_plugin"


@cache
def has_source(module: str) -> bool:
    """Whether a module can be imported, as far as is known without importing it."""
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _origin(node: DictConfig, name: Any, key: str, config: DictConfig) -> str:
    """The key that a value is set by: that of what it refers to."""
    seen = {key}
    while (found := re.fullmatch(r"\$\{([\w.]+)\}", str(_raw(node, name)))) is not None and found[1] not in seen:
        key = found[1]
        seen.add(key)
        above, _, name = key.rpartition(".")
        parent = OmegaConf.select(config, above) if above else config
        if not isinstance(parent, DictConfig):
            break
        node = parent
    return key


def _raw(node: DictConfig, name: Any) -> Any:
    raw: Mapping[Any, Any] = OmegaConf.to_container(node, resolve=False)  # type: ignore[assignment]  # of a mapping
    return raw.get(name)
