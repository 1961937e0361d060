"""What `--help` and `--version` print: neither composes a config or imports what a command needs."""

import importlib.metadata
from collections.abc import Sequence

import yaml

from hardneg_plugin.config import conf_dir


def asked_for(arguments: Sequence[str], config_name: str) -> str | None:
    """The text that the arguments ask for instead of the command; None where they ask for none.

    Args:
        arguments: of the command line, without the command.
        config_name: of the command's config, whose `hydra.help.template` is its help.
    """
    before_paths = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if any(argument in ("--help", "-h") for argument in before_paths):
        config = yaml.safe_load((conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
        return str(config["hydra"]["help"]["template"])
    if "--version" in before_paths:
        return f"hardneg-plugin {importlib.metadata.version('hardneg-plugin')}\n"
    return None
