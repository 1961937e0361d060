"""Arguments of a command line that are paths, told apart from those for Hydra."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from hardneg_plugin.apps.shared.typed_paths import check_no_reference, typed_path
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.overrides import quoted

WITH_VALUE = {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"}
WITH_VALUE |= {"-i", "--info"}
"""Hydra's options that are followed by a value."""


def split_arguments(arguments: Sequence[str], config_name: str) -> tuple[list[str], list[str]]:
    """Tell Hydra's arguments from paths.

    Whatever comes after `--` is a path. Before it, what begins with `-` is an option, what begins with `/`, `./`, `../` or `~/` is
    a path, and what begins with a setting of the config and `=` is that setting; all else is a path, unless there is no such file
    and it looks like a setting.

    Args:
        arguments: of the command line, without the command.
        config_name: of the command's config, such as "predict".

    Returns:
        Options and settings; and paths.

    >>> split_arguments(["outputs/mine", "split=val", "--cfg", "job", "--", "-1.png"], "evaluate")
    (['split=val', '--cfg', 'job'], ['outputs/mine', '-1.png'])
    """
    names = {str(name) for name in OmegaConf.load(conf_dir() / f"{config_name}.yaml")} - {"defaults"}
    settings: list[str] = []
    paths: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        key, equals, _ = argument.partition("=")
        name = key.lstrip("+~").replace("/", ".").replace("@", ".").split(".")[0]
        if argument == "--":
            paths += remaining
        elif argument.startswith("-"):
            settings.append(argument)
            if argument in WITH_VALUE:
                settings += [value for value in [next(remaining, None)] if value is not None]
        elif argument.startswith(("/", "./", "../", "~/")):
            paths.append(argument)
        elif (equals and name in names) or (equals and not Path(argument).exists()):
            settings.append(argument)
        else:
            paths.append(argument)
    return settings, paths


def with_path_as_setting(arguments: Sequence[str], config_name: str, key: str, *, several: bool = False) -> list[str]:
    """The arguments for Hydra of a command that takes a path, by itself or as `key=PATH`.

    Args:
        arguments: of the command line, without the command.
        config_name: of the command's config.
        key: the setting that the path stands for.
        several: whether it may be a list of paths.

    Raises:
        UserError: there are more paths than the command takes, or one has `${` in its name.

    >>> with_path_as_setting(["outputs/a run", "split=val"], "evaluate", "run")
    ["run='outputs/a run'", 'split=val']
    >>> with_path_as_setting(["outputs/a", "outputs/b"], "page", "run", several=True)
    ["run=['outputs/a','outputs/b']"]
    """
    settings, paths = split_arguments(arguments, config_name)
    given = [setting for setting in settings if setting.startswith(f"{key}=")]
    if (paths and given) or (len(paths) > 1 and not several):
        expected = "its paths by themselves or by their key" if several else "one path"
        raise UserError(f"{key}: expected {expected}, but got {', '.join([*paths, *given])}.")
    for path in paths:
        check_no_reference(path, key)
    values = [quoted(typed_path(path)) for path in paths]
    if len(values) > 1:
        return [f"{key}=[{','.join(values)}]", *settings]
    return [*(f"{key}={value}" for value in values), *settings]
