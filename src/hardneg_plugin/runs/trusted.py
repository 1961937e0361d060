"""Which classes the config of a run may name: a run folder from someone else must not run their code."""

import re
import reprlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from hardneg_plugin.backbones.model_code import objection
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError

# Beside the targets of the project's configs: common replacements that take plain values only, and what earlier versions named.
ELSEWHERE = {
    "hardneg_plugin.training.checkpoint_io": ("WholeFileCheckpointIO",),
    "torch.optim": ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD"),
    "torch.optim.lr_scheduler": (
        "ConstantLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "ExponentialLR",
        "LinearLR",
        "MultiStepLR",
        "OneCycleLR",
        "PolynomialLR",
        "StepLR",
    ),
    "pytorch_lightning.loggers": ("TensorBoardLogger",),
    "pytorch_lightning.callbacks": (
        "DeviceStatsMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "RichProgressBar",
        "Timer",
    ),
}

OF_OTHER_COMMANDS = ("clinical", "embedder", "source")
"""Groups of configs of hardneg-score, hardneg-mine and hardneg-prepare."""

INSTEAD = "A run from someone else could run their code. If you trust it, add trust=true."


@cache
def trusted_targets() -> frozenset[str]:
    """Every `_target_` that the project's configs name, and what may stand in their place, by its full name.

    Names rather than packages: every package holds something that takes a path or a command.
    """
    return _named_in(conf_dir().rglob("*.yaml")) | {
        f"{module}.{name}" for module, names in ELSEWHERE.items() for name in names
    }


@cache
def targets_of_runs() -> frozenset[str]:
    """Every `_target_` that the config of a run may name without `trust`.

    What other commands build has no place there: some of it hands files to packages that unpickle them.
    """
    paths = [path for path in conf_dir().rglob("*.yaml") if path.parent.name in OF_OTHER_COMMANDS]
    others = [path for path in conf_dir().rglob("*.yaml") if path.parent.name not in OF_OTHER_COMMANDS]
    return trusted_targets() - (_named_in(paths) - _named_in(others))


def _named_in(paths: Iterable[Path]) -> frozenset[str]:
    pattern = re.compile(r"^[\s-]*_target_:\s*([\w.]+)", flags=re.MULTILINE)
    return frozenset(name for path in paths for name in pattern.findall(path.read_text(encoding="utf-8")))


def check_trusted(config: Any, where: str) -> None:
    """Refuse a config with a `_target_` that is not trusted, an interpolation, a URL of images, or what brings a model's code.

    Nothing is imported.

    Args:
        config: a config or plain values, resolved.
        where: what it was read from, for the message.

    Raises:
        UserError: with the key, its value, and how to trust it.

    >>> check_trusted({"_target_": "torch.optim.AdamW", "lr": 1e-3}, "config.yaml")
    """
    values = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    for path, value in _entries(values):
        key, name = ".".join(path), path[-1] if path else ""
        if name == "_target_" and (not isinstance(value, str) or value not in targets_of_runs()):
            shown = reprlib.repr(value) if not isinstance(value, str) else value[:200]
            raise UserError(f"{where}: {key} is {shown}, which no run of the project names. {INSTEAD}")
        if (reason := objection(name, value)) is not None:
            raise UserError(f"{where}: {key} is {reprlib.repr(value)}, which {reason}. {INSTEAD}")
        if name == "images" and isinstance(value, str) and ("://" in value or "::" in value):
            raise UserError(
                f"{where}: {key} is {reprlib.repr(value)}, which would be read with your credentials, wherever it is. {INSTEAD}"
            )
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{where}: {key} is {reprlib.repr(value)}, but the config of a run has plain values only. {INSTEAD}"
            )


def check_plain(settings: Any, where: str) -> None:
    """Refuse settings of a decoder that name a class: they are plain values, so that nobody is asked to trust a checkpoint.

    Args:
        settings: of the decoder, from a checkpoint.
        where: what it was read from, for the message.

    Raises:
        UserError: with the key.
    """
    for path, value in _entries(settings):
        if path and path[-1] == "_target_":
            raise UserError(
                f"{where}: {'.'.join(path)} is {reprlib.repr(value)}, but a checkpoint holds plain values only. It is "
                "damaged or made to run code: train anew, or get it from elsewhere."
            )


def _entries(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value at any depth, and keys with interpolations."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and "${" in key:
                yield path, key
            yield from _entries(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _entries(inner, (*path, str(index)))
