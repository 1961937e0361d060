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
from omegaconf.errors import OmegaConfBaseException

from hardneg_plugin.apps.shared.typed_paths import how_to_quote, in_shell
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import first_line
from hardneg_plugin.runs.overrides import quoted

OPEN = (
    "visual.options",
    "visual.config",
    "backbone.config",
    "backbone.lora",
    "compare.definitions",
    "compare.by_data",
    "callbacks",
    "logger",
)
"""Mappings that take keys of other names."""
OTHER_NAMES = {
    **dict.fromkeys(
        ("image_size", "img_size", "imgsz", "input_size", "resolution", "crop_size"),
        ("data.datamodule.source.crop", "data.datamodule.source.size", "image_size", "size"),
    ),
    **dict.fromkeys(("gpus", "n_gpu", "num_gpus", "gpu", "n_gpus", "world_size"), ("trainer.devices",)),
    **dict.fromkeys(("nodes", "nnodes"), ("trainer.num_nodes",)),
    **dict.fromkeys(("learning_rate", "base_lr"), ("optimizer.lr",)),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "num_train_epochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("bs", "train_batch_size", "per_device_train_batch_size"), ("data.batch_size",)),
    **dict.fromkeys(("workers", "num_threads", "n_workers"), ("data.datamodule.num_workers", "workers")),
    **dict.fromkeys(("max_seq_length", "max_len", "max_seq_len"), ("data.max_length", "decoding.max_length")),
    **dict.fromkeys(("beams", "num_beams", "beam"), ("decoding.beam_size",)),
    **dict.fromkeys(("fp16", "bf16", "amp", "half"), ("trainer.precision",)),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "clip_grad_norm"), ("trainer.gradient_clip_val",)),
    **dict.fromkeys(("save_dir", "output_dir", "out_dir", "log_dir", "exp_dir"), ("output", "hydra.run.dir")),
    **dict.fromkeys(("data_dir", "image_dir", "dataset_dir"), ("data.root",)),
}
"""What other trainers call a setting, and our names for it, of which the first that a command has is meant."""
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
    if misfit := re.fullmatch(r"Error merging override '?([^=]+)=(.*?)'?", message.splitlines()[0]):
        key, value = misfit.groups()
        as_text = in_shell(f"{key}={quoted(value)}")
        return f"{key}: {value} does not fit there ({first_line(error.__cause__ or error)}). As text it is {as_text}."
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
    near = nearest_key(full, known)
    is_typo = near is not None and difflib.SequenceMatcher(None, full, near).ratio() >= 0.9
    if not is_typo and (choices := _choices_with(full, config_name)):
        group = full.partition(".")[0]
        return (
            f"{full}: there is no such config key with the {group} that is chosen; it belongs to {group}="
            f"{', '.join(choices[:-1])}{' or ' if choices[:-1] else ''}{choices[-1]}: add {group}={choices[-1]}."
        )
    return f"{full}: there is no such config key{f'; did you mean {near}?' if near else '.'}"


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The config key that was probably meant by one that there is not; None where none is near.

    A key of the same name elsewhere comes before one that is spelt alike.

    Args:
        key: as typed.
        known: all keys of the command.

    >>> known = ["optimizer", "optimizer.lr", "data.batch_size", "data.datamodule.source.size", "trainer.max_epochs"]
    >>> [nearest_key(key, known) for key in ("lr", "data.image_size", "epochs", "trainer.max_epoch", "colour")]
    ['optimizer.lr', 'data.datamodule.source.size', 'trainer.max_epochs', 'trainer.max_epochs', None]
    """
    name = key.rpartition(".")[2].lower()
    if meant := next((ours for ours in OTHER_NAMES.get(name, ()) if ours in known or ours.startswith("hydra.")), None):
        return meant
    others = [other for other in known if other != key]
    same = [other for other in others if other.rpartition(".")[2].lower() == name]
    return next(iter(difflib.get_close_matches(key, same or others, n=1, cutoff=0.0 if same else 0.6)), None)


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
    """Every key of the composed config, with the groups that the command line chooses, and every config group."""
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    yield from sorted(groups)
    chosen = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for overrides in (chosen, []):
            # of a config where a group is still to be chosen, or of a choice that there is not
            with contextlib.suppress(HydraException, OmegaConfBaseException):
                yield from _flat(OmegaConf.to_container(hydra.compose(config_name, overrides)))
                return


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
