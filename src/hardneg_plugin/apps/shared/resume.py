"""What `resume=RUN` adds to a command line: the overrides of the run, and its folder as the run folder."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.overrides import check_overrides, quoted


def resumed(arguments: Sequence[str]) -> list[str]:
    """The arguments with those of a run to resume: its overrides and its monitor first, and its folder as the run
    folder.

    Args:
        arguments: of the command line, without the command.

    Raises:
        UserError: there is no such run; or, without `trust=true`, its overrides do more than choose among our configs, or a link
            leads out of it.
    """
    folder = _last_value(arguments, "resume")
    if folder in (None, ""):
        return list(arguments)
    run = RunFolder.existing(str(folder))
    if "${" in str(run.path.resolve()):
        raise UserError(
            f"resume: {run.path.resolve()} has ${{ in its name, which Hydra takes for a setting: rename the folder."
        )
    is_trusted = _last_value(arguments, "trust") is True
    if not is_trusted:
        run.check_links()
    overrides = run.read_overrides()
    monitor = run.read_monitor()
    if monitor is not None and not any(text.startswith("monitor=") for text in overrides):
        overrides.append(f"monitor={quoted(monitor)}")  # earlier versions had another default
    if not is_trusted:
        check_overrides(overrides, str(run.overrides))
    return [*overrides, *arguments, f"hydra.run.dir={quoted(run.path.resolve())}"]


def _last_value(arguments: Sequence[str], key: str) -> Any:
    given = [argument for argument in arguments if argument.startswith(f"{key}=")]
    if not given:
        return None
    try:
        (override,) = OverridesParser.create().parse_overrides(given[-1:])
        return override.value() if not override.is_sweep_override() else None
    except (HydraException, ValueError) as error:
        raise UserError(f"{given[-1]}: expected one value for {key}.") from error
