"""Commands that are printed for the user: lines that a shell reads as they were meant."""

import re
import shlex
from pathlib import Path

from hardneg_plugin.runs.overrides import quoted


def command_line(command: str, *arguments: str | Path, **settings: str | Path) -> str:
    """A line to paste into a shell.

    Args:
        command: such as "hardneg-evaluate".
        arguments: in their order: a path by itself, or text such as "checkpoint=last".
        settings: paths by their keys; "__" stands for a dot.

    >>> print(command_line("hardneg-train", "data=prepared", data__root="my studies"))
    hardneg-train data=prepared data.root='my studies'
    >>> print(command_line("hardneg-evaluate", Path("seed=3")))
    hardneg-evaluate ./seed=3
    """
    words = [_path(argument) if isinstance(argument, Path) else shlex.quote(argument) for argument in arguments]
    words += [f"{key.replace('__', '.')}={_value(str(path))}" for key, path in settings.items()]
    return " ".join([command, *words])


def _path(path: Path) -> str:
    """A path as an argument by itself, which must not look like an option or a setting."""
    text = str(path)
    is_misread = text.startswith(("-", "~")) or "=" in text
    return shlex.quote(f"./{text}" if is_misread and not path.is_absolute() else text)


def _value(path: str) -> str:
    """A path as the value of a setting: as it is where the commands take it as typed, else in Hydra's quotes."""
    is_syntax = re.match(r"['\"\[{~]|.*\$\{|(null|true|false)$|\s|$|.*\s$|.*,", path, re.DOTALL | re.IGNORECASE)
    return shlex.quote(quoted(path) if is_syntax else path)
