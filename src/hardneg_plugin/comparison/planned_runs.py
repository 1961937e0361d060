"""The runs of a comparison: where they stand, how far they are, and whether what is there is what is wanted."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.folder_lock import hold_folder
from hardneg_plugin.runs.folder import RunFolder

ELSEWHERE = "Set another compare.folder, or remove this one."


@dataclass(frozen=True)
class PlannedRun:
    """One training of a comparison."""

    variant: str
    seed: int
    overrides: list[str]
    """What a user would type for hardneg-train, the seed included."""
    settings: dict[str, Any]
    """What these are composed to, without interpolations."""
    folder: RunFolder

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the training printed."""
        return self.folder.path / "train.log"

    @property
    def state(self) -> Literal["finished", "interrupted", "missing"]:
        """How far it is."""
        if self.folder.metrics.is_file():  # written last
            return "finished"
        return "interrupted" if self.folder.config.is_file() else "missing"


def run_folder(comparison: Path, variant: str, seed: int) -> RunFolder:
    """Where a run of a comparison stands."""
    return RunFolder(comparison / "runs" / variant / f"seed_{seed}")


def at_work_on(comparison: Path) -> AbstractContextManager[int]:
    """Hold the folder of a comparison, made if need be; see `hold_folder`.

    Raises:
        UserError: another command holds it, it is not a folder of a comparison, or cannot be made.
    """
    return hold_folder(
        comparison,
        command="hardneg-compare",
        busy="another hardneg-compare, or a training that it has started,",
        remedy="Set another compare.folder.",
    )


def check_same_settings(runs: Sequence[PlannedRun]) -> None:
    """See that what is there of these runs was trained under their settings.

    Raises:
        UserError: with the first difference.
    """
    for run in runs:
        if run.state == "missing":
            continue
        there = flattened(OmegaConf.to_container(run.folder.read_config(trust=True), resolve=False))
        wanted = flattened(run.settings)
        for key in sorted(there.keys() | wanted.keys()):
            before, now = there.get(key, "not set"), wanted.get(key, "not set")
            if before != now and str(run.folder.path) not in str(now):  # the folder may have been moved
                raise UserError(
                    f"{run.folder.path} was trained under other settings: {key} is {before} there and {now} here. {ELSEWHERE}"
                )


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their keys with dots, but for what only says how a run is begun."""
    if isinstance(value, dict) and value:
        return {
            key: inner
            for name, part in value.items()
            if f"{prefix}{name}" not in ("resume", "trust")
            for key, inner in flattened(part, f"{prefix}{name}.").items()
        }
    return {prefix.removesuffix("."): value}
