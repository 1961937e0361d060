"""What was meant by an override that Hydra refuses, and which package an import misses."""

import contextlib
import difflib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from hardneg_plugin.apps.shared.typed_paths import how_to_quote, in_shell
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import first_line

OPEN = (
    "visual.options",
    "backbone.config",
    "backbone.lora",
    "compare.definitions",
    "compare.by_data",
    "callbacks",
    "logger",
)
"""Mappings that take keys of other names."""
PACKAGES = {"sentence_transformers": "sentence-transformers", "medspacy": "clinical", "RaTEScore": "clinical"}
"""Modules whose extra has another name."""


def explain_override(error: HydraException, config_name: str) -> str:
    """One line about an override that Hydra refuses.

    Args:
        error: Hydra's.
        config_name: of the command's config, whose keys are suggested.
    """
    message = str(error)
    if isinstance(error, OverrideParseException) and (line := how_to_quote(sys.argv[1:])) is not None:
        return line
    if missing_option := re.search(r"Could not find '([^']+)'", message):
        group, _, option = missing_option.group(1).rpartition("/")
        options = [path.stem for path in sorted((conf_dir() / group).glob("*.yaml"))]
        return f"{group}={option}: there is no such config{_nearest(option, options)} There are: {', '.join(options)}."
    if unchosen := re.search(r"You must specify '([^']+)'", message):
        group = unchosen.group(1)
        options = [path.stem for path in sorted((conf_dir() / group).glob("*.yaml"))]
        return f"{group} must be given: add {group}=... to the command line, one of {', '.join(options)}."
    if several := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", message):
        key, values = several.groups()
        as_text = in_shell(f"{key}='{values}'")
        return f"{key}={values}: a list is {key}=[{values}], text is {as_text}, and several runs are asked for by --multirun."
    if unknown_key := re.search(r"Could not override '([^']+)'.*use \+(\S+)", message, re.DOTALL):
        return _explain_unknown(unknown_key.group(1), error.__cause__, config_name)
    return message.splitlines()[0]


def explain_composing(error: ValueError, arguments: Sequence[str]) -> str:
    """One line about a value that fits nowhere in the config.

    Args:
        error: of Hydra or OmegaConf.
        arguments: for Hydra.

    >>> explain_composing(ValueError("Config group override must be a string or a list. Got NoneType"), ["trainer=null"])
    'trainer=null: expected one of cpu, ddp, gpu, smoke.'
    """
    if "Config group override" in str(error):
        for argument in arguments:
            group, _, value = argument.partition("=")
            options = [path.stem for path in sorted((conf_dir() / group).glob("*.yaml"))]
            if options and value not in options:
                return f"{argument}: expected one of {', '.join(options)}."
    return f"The settings cannot be combined: {first_line(error)}. They are: {' '.join(arguments)}"


def _explain_unknown(key: str, cause: BaseException | None, config_name: str) -> str:
    inner = re.search(r"full_key: (\S+)", str(cause))
    full = inner.group(1) if inner and inner.group(1).startswith(f"{key}.") else key  # of a mapping: the key in it
    if any(full.startswith(f"{name}.") for name in OPEN):
        return f"{full}: there is no such config key yet; with a plus it is added: +{full}=..."
    known = list(_known_keys(config_name))
    near = difflib.get_close_matches(full, known, n=1, cutoff=0.5)
    is_typo = bool(near) and difflib.SequenceMatcher(None, full, near[0]).ratio() >= 0.9
    if not is_typo and (choices := _choices_with(full, config_name)):
        group = full.partition(".")[0]
        return (
            f"{full}: there is no such config key with the {group} that is chosen; it belongs to {group}="
            f"{', '.join(choices[:-1])}{' or ' if choices[:-1] else ''}{choices[-1]}: add {group}={choices[-1]}."
        )
    return f"{full}: there is no such config key{_nearest(full, [name for name in known if name != full])}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "."


def _choices_with(key: str, config_name: str) -> list[str]:
    """The configs of a key's group that have the key, where the command has that group."""
    group, _, name = key.partition(".")
    own = (conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8")
    if re.search(rf"^\s*- {re.escape(group)}:", own, re.MULTILINE) is None:
        return []
    return [
        path.stem for path in sorted((conf_dir() / group).glob("*.yaml")) if name in set(_keys_of(group, path.stem))
    ]


def _keys_of(group: str, option: str) -> Iterator[str]:
    """The keys of a config without its group, with those of the configs of the group that it builds on."""
    path = conf_dir() / group / f"{option}.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    content: Any = yaml.safe_load(text) or {}
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            yield from _keys_of(group, base)
    yield from _flat(content.get(group, {}) if "@package _global_" in text else content)


def _known_keys(config_name: str) -> Iterator[str]:
    """Every key of the composed config and every config group."""
    yield from (path.name for path in conf_dir().iterdir() if path.is_dir())
    with (
        contextlib.suppress(HydraException),  # of a config where a group is still to be chosen
        hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        yield from _flat(OmegaConf.to_container(hydra.compose(config_name)))


def _flat(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _flat(value, f"{prefix}{key}.")


def needed_package(error: ImportError) -> str:
    """How to install what an import misses: by an extra of this package where one has it.

    >>> needed_package(ImportError("no wandb", name="wandb"))
    "pip install 'hardneg-plugin[wandb]'."
    >>> needed_package(ImportError("No module named 'radgraph'", name="radgraph"))
    'pip install radgraph.'
    """
    named = error.name or next(iter(re.findall(r"No module named '([^']+)'", str(error))), "")
    extras = importlib.metadata.metadata("hardneg-plugin").get_all("Provides-Extra") or []
    module = named.partition(".")[0]
    words = [module, *re.findall(r"[\w-]+", str(error))]
    for word in words:
        extra = PACKAGES.get(word, word)
        if extra in extras:
            return f"pip install 'hardneg-plugin[{extra}]'."
    return f"pip install {module}." if module else "install it."
