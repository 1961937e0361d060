"""What the config of a run may name: a run folder from someone else must not run code of theirs."""

import re
import reprlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError

# Beyond what our own configs name: what people put in its place most often, and what takes plain values only.
ELSEWHERE = {
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
    "pytorch_lightning.callbacks": ("DeviceStatsMonitor", "ModelSummary", "RichProgressBar", "Timer"),
}

# Arguments of what is allowed that would read a file in a way that can run code: timm loads this one's pickles, up to 1.0.15.
REFUSED_ARGUMENTS = ("checkpoint_path",)

INSTEAD = "A run may come from someone else, whose code this could run: if you trust it, add trust=true."


@cache
def trusted_targets() -> frozenset[str]:
    """Every `_target_` that may be instantiated unasked, by its exact name.

    Names rather than roots: below a root there is always something that takes a path or a command, or that another module
    was imported into.
    """
    own = (
        name
        for path in conf_dir().rglob("*.yaml")
        for name in re.findall(r"^[\s-]*_target_:\s*([\w.]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    return frozenset(own) | {f"{module}.{name}" for module, names in ELSEWHERE.items() for name in names}


def check_trusted(config: Any, where: str) -> None:
    """Refuse a config that names what is not on the list, or looks anything up; nothing is imported for it.

    Args:
        config: a config, or plain values, in which nothing needs to be resolved any more.
        where: what it was read from, for the message.

    Raises:
        UserError: with the key, what stands there, and how to trust it.
    """
    values = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    for path, value in _entries(values):
        key, name = ".".join(path), path[-1] if path else ""
        if name == "_target_" and (not isinstance(value, str) or value not in trusted_targets()):
            shown = reprlib.repr(value) if not isinstance(value, str) else value[:200]
            raise UserError(f"{where}: {key} is {shown}, which none of our own configs names. {INSTEAD}")
        if name in REFUSED_ARGUMENTS and value is not None:
            raise UserError(
                f"{where}: {key} would have {reprlib.repr(value)} read in a way that is not safe. {INSTEAD}"
            )
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{where}: {key} is {reprlib.repr(value)}, where the config of a run has plain values only. {INSTEAD}"
            )


def _entries(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value at any depth, keys of mappings among them."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and "${" in key:
                yield path, key
            yield from _entries(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _entries(inner, (*path, str(index)))
