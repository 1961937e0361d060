"""YAML of a run folder: plain values, and no more of them than a config has."""

import io
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hardneg_plugin.errors import UserError

MAX_BYTES = 2**20
MAX_VALUES = 20_000
"""A config has hundreds; each takes some kilobytes in memory."""


def read_yaml(path: Path) -> Any:
    """A config of plain values; YAML tags that would build anything else are refused.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read; it is larger than a config, or has aliases, with which a few lines become gigabytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: expected the config of a run, but it has more than {MAX_BYTES:,} bytes.")
        text = content.decode("utf-8")
        _check_size(text, path)
        return OmegaConf.load(io.StringIO(text))
    except UserError:
        raise
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _check_size(text: str, path: Path) -> None:
    values = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise UserError(
                f"{path}: expected each value where it belongs, but line {event.start_mark.line + 1} has the alias "
                f"*{event.anchor}, which no run writes. Write the value itself."
            )
        values += isinstance(event, yaml.NodeEvent)
        if values > MAX_VALUES:
            raise UserError(f"{path}: expected the config of a run, but it has more than {MAX_VALUES:,} values.")
