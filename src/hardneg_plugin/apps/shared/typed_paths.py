"""Paths as they are typed: with blanks, brackets, commas, accents and ~, which Hydra would read as its own syntax."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.overrides import quoted

PATHS = re.compile(
    r"run|resume|output|predictions|references|images|checkpoint|ithn_annotation|compare\.folder|hydra\.(run|sweep)\.dir|data\.root"
    r"|source\.(root|table|files|reports|projections|images|annotation|metadata|split|labels)"
    r"|data\.datamodule\.source\.(root|annotation|images|boxes)|(data\.paired|data\.emphasis|sampler|negatives)\.table"
    r"|visual\.weights|(backbone|tokenizer|embedder)\.name_or_path|(backbone|embedder)\.checkpoint|embedder\.run"
    r"|clinical\.\w+\.(weights|bert|ner|synonyms|generated|references)|clinical\.crimson\.model"
)
"""The settings that are paths."""
SIMPLE = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
"""What Hydra reads as text anyway."""


def as_typed(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the paths among the settings quoted for Hydra where they need it.

    A value that is quoted already, null, true or false, or holds an interpolation stays as it is; so do a list, a mapping, and
    under `--multirun` several values, unless there is a file or folder of that name.

    Args:
        arguments: of the command line, without the command.

    Raises:
        UserError: there is a file or folder with `${` in its name, or a run folder is set to nothing.

    >>> as_typed(["data.root=my studies (2)", "seed=1", "run=[a, b]"])
    ["data.root='my studies (2)'", 'seed=1', 'run=[a, b]']
    """
    sweeps = any(argument in ("--multirun", "-m") for argument in arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*(_as_typed(argument, sweeps) for argument in arguments[:end]), *arguments[end:]]


def _as_typed(argument: str, sweeps: bool) -> str:
    key, equals, value = argument.partition("=")
    if not equals or PATHS.fullmatch(key.lstrip("+")) is None:
        return argument
    if not value and key.startswith("hydra."):
        raise UserError(f"{key}: expected a folder, but got nothing; the folder that you are in is {key}=.")
    check_no_reference(value, key)
    if re.fullmatch(r"(?i:null|true|false)?|'.*'|\".*\"|.*\$\{.*", value, re.DOTALL):
        return argument
    is_syntax = value.startswith(("[", "{")) or (sweeps and "," in value)
    if is_syntax and not Path(value).exists():
        return argument
    path = typed_path(value)
    is_text = SIMPLE.fullmatch(path) is not None and not re.fullmatch(r"(?i:nan|inf)", path)
    return f"{key}={path if is_text else quoted(path)}"


def check_no_reference(path: str, key: str) -> None:
    """Refuse the path of a file or folder that is there and that the configs would take for a reference.

    Args:
        path: as typed.
        key: of the setting, for the message.

    Raises:
        UserError: there is `${` in it.
    """
    if "${" in path and Path(path).exists():
        raise UserError(f"{key}: {path} has ${{ in its name, which Hydra reads as a reference to a setting. Rename it.")


def typed_path(text: str) -> str:
    """A path with its ~ expanded, as a shell would have done at the beginning of a word."""
    if not text.startswith("~") or Path(text).exists():
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # there is no such user
        return text


def how_to_quote(arguments: Sequence[str]) -> str | None:
    """What to do about the first argument that Hydra cannot read, with the line to type; None where it reads all.

    Args:
        arguments: for Hydra, without the command.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        if argument.startswith("-"):
            continue
        try:
            parser.parse_overrides([argument])
        except (HydraException, ValueError):
            key, equals, value = argument.partition("=")
            if not equals:
                return f"{argument}: expected SETTING=VALUE; --help shows the main settings."
            return f"{argument} cannot be read. Quote its value: {in_shell(f'{key}={quoted(value)}')}"
    return None


def in_shell(argument: str) -> str:
    """An argument as a word of a shell, in double quotes where these suffice."""
    return f'"{argument}"' if not re.search(r"[\"$`!]|\\[\\\n]|\\$", argument) else shlex.quote(argument)
