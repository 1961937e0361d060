"""Completion by Tab within half a second: without this, Hydra 1.3 reads the main config again for each group that it lists."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl

FLAGS = ("-sc", "--shell-completion")


def is_completion(arguments: Sequence[str]) -> bool:
    """Whether the shell asks what could follow.

    Args:
        arguments: of the command line.

    >>> is_completion(["-sc", "query=bash"]), is_completion(["seed=1"])
    (True, False)
    """
    return any(argument.partition("=")[0] in FLAGS for argument in arguments)


def read_configs_once() -> None:
    """Keep what Hydra has read for one list of overrides, in this process, which ends after one answer.

    The method is Hydra's own and not public. A later Hydra without it only answers more slowly.
    """
    prepare = getattr(ConfigLoaderImpl, "_parse_overrides_and_create_caching_repo", None)
    if prepare is None:
        return
    kept: dict[tuple[Any, ...], Any] = {}

    def prepare_once(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Any:
        key = (id(loader), config_name, *overrides)
        if key not in kept:
            kept[key] = prepare(loader, config_name, overrides)
        return kept[key]

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = prepare_once  # type: ignore[method-assign]
