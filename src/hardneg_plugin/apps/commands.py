"""The commands: each reads its arguments and checks its settings before it imports what does the work, which takes seconds."""

import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from hardneg_plugin.apps.shared.comparison_plan import ComparisonPlan
from hardneg_plugin.apps.shared.help_text import asked_for
from hardneg_plugin.apps.shared.hydra_command import fail, hush_libraries, run_command
from hardneg_plugin.apps.shared.positional import WITH_VALUE, split_arguments, with_path_as_setting
from hardneg_plugin.apps.shared.resume import resumed
from hardneg_plugin.apps.shared.train_settings import check_settings
from hardneg_plugin.apps.shared.typed_paths import as_typed
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.terminal import say

ELSEWHERE = {
    "predictions": "a predictions file is scored by hardneg-score PREDICTIONS",
    **dict.fromkeys(("task", "tasks"), "downstream tasks are done by hardneg-tasks RUN"),
}
"""Settings that hardneg-evaluate had, and where they are."""


def train() -> None:
    """Entry point of hardneg-train."""
    _command("train", "start", resumed, check=check_settings)


def evaluate() -> None:
    """Entry point of hardneg-evaluate."""
    for argument in sys.argv[1:]:
        if (key := argument.partition("=")[0]) in ELSEWHERE:
            fail(f"{key}: there is no such config key; {ELSEWHERE[key]}.")
    _command("evaluate", "start", _with_path("evaluate", "run"), check=_check_run)


def score() -> None:
    """Entry point of hardneg-score."""
    _command("score", "score", _with_path("score", "predictions"))


def tasks() -> None:
    """Entry point of hardneg-tasks."""
    _command("tasks", "start", _with_path("tasks", "run"), check=_check_run)


def page() -> None:
    """Entry point of hardneg-page."""
    _command("page", "page", _with_path("page", "run", several=True))


def export() -> None:
    """Entry point of hardneg-export."""
    _command("export", "export", _with_path("export", "run"), check=_check_run)


def prepare() -> None:
    """Entry point of hardneg-prepare."""
    _command("prepare", "prepare", list)


def mine() -> None:
    """Entry point of hardneg-mine."""
    _command("mine", "mine", list)


def predict() -> None:
    """Entry point of hardneg-predict: `RUN IMAGE...`, or `run=RUN images=...`."""
    paths: list[str] = []

    def for_hydra(arguments: Sequence[str]) -> list[str]:
        # paths do not pass through Hydra, which would parse lists and interpolations in them
        settings, found = split_arguments(arguments, "predict")
        is_named = any(argument.startswith("run=") for argument in settings)
        paths.extend(["", *found] if is_named or not found else found)
        return settings

    def check(config: DictConfig) -> None:
        if not paths[0] and config.run is None:
            raise UserError(
                "run must be given: hardneg-predict RUN IMAGE..., where RUN is the folder of a training run or of "
                "hardneg-export format=hub."
            )

    _command("predict", "predict", for_hydra, check=check, given={"paths": paths})


def compare() -> None:
    """Entry point of hardneg-compare."""
    plan = ComparisonPlan()

    def for_hydra(arguments: Sequence[str]) -> list[str]:
        own, plan.for_launcher, plan.for_runs = divided(arguments)
        return own

    _command("compare", "start", for_hydra, check=plan.make, given={"plan": plan})


def divided(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The arguments for hardneg-compare itself, for the launcher of the runs, and for hardneg-train.

    `+experiment=...` adds variants to the comparison; without the plus it is a setting of the runs.

    >>> divided(["compare.jobs=2", "+experiment=ablations_ithn", "hydra.launcher.nodes=1", "hardening=ascent", "--cfg=job"])
    (['compare.jobs=2', '+experiment=ablations_ithn', '--cfg=job'], ['hydra.launcher.nodes=1'], ['hardening=ascent'])
    """
    own: list[str] = []
    for_launcher: list[str] = []
    for_runs: list[str] = []
    is_value = False  # of the option before it
    for argument in arguments:
        name = argument.lstrip("+~")
        if is_value or argument.startswith(("-", "+experiment=")) or name.startswith("compare."):
            own.append(argument)
        elif name.startswith("hydra.launcher."):
            for_launcher.append(argument)
        else:
            for_runs.append(argument)
        is_value = argument in WITH_VALUE
    return own, for_launcher, for_runs


def _check_run(config: DictConfig) -> None:
    RunFolder.existing(config.run)


def _with_path(config_name: str, key: str, *, several: bool = False) -> Callable[[Sequence[str]], list[str]]:
    return lambda arguments: with_path_as_setting(arguments, config_name, key, several=several)


def _command(
    name: str,
    function: str,
    for_hydra: Callable[[Sequence[str]], list[str]],
    *,
    check: Callable[[DictConfig], None] | None = None,
    given: dict[str, Any] | None = None,
) -> None:
    """Run a command with the arguments of this process.

    Args:
        name: of its module in this folder and of its config.
        function: of that module; takes the composed config.
        for_hydra: makes Hydra's arguments of those of the command line.
        check: refuses settings that contradict one another.
        given: further arguments of the function.
    """
    arguments = sys.argv[1:]
    if (text := asked_for(arguments, name)) is not None:
        say(text, end="")
        return
    try:
        arguments = for_hydra(as_typed(arguments))
    except UserError as error:
        fail(str(error))

    def task(config: DictConfig) -> None:
        if check is not None:
            check(config)
        work = pkgutil.resolve_name(f"hardneg_plugin.apps.{name}:{function}")
        # after the import, which sets Lightning's own; here, since a launcher of Hydra may send only this function elsewhere
        hush_libraries()
        work(config, **(given or {}))

    run_command(name, task, arguments)
