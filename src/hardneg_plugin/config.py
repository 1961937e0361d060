"""Where the configs are, and what they need from Python."""

from pathlib import Path

import hardneg_plugin


def conf_dir() -> Path:
    """The folder of Hydra configs: inside the installed package, or beside `src` in a checkout."""
    package = Path(hardneg_plugin.__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def nothing() -> None:
    """What `hardening=none` and `separation=none` name: a config group must choose something."""
