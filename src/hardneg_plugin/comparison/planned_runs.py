"""The runs of a comparison: where they stand, how far they are, and whether what is there is what is wanted."""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import writing
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


@contextmanager
def at_work_on(comparison: Path) -> Iterator[int]:
    """Hold the folder of a comparison, made if need be, so that no other command works on it meanwhile.

    Returns:
        The descriptor of its lock. A process that has inherited it holds the folder too.

    Raises:
        UserError: another command holds it, it is no folder of a comparison, or cannot be made.
    """
    lock = comparison / "lock"
    with writing(comparison, "Set another compare.folder."):
        comparison.mkdir(parents=True, exist_ok=True)
        if not lock.exists() and any(comparison.iterdir()):
            raise UserError(
                f"{comparison} is there and is not of hardneg-compare; it is left as it is. Set another compare.folder."
            )
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, comparison)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, comparison: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise UserError(
            f"{comparison}: another hardneg-compare, or a training that it has started, is at work on this folder. Wait for "
            "it, or set another compare.folder."
        ) from error


def check_same_settings(runs: Sequence[PlannedRun]) -> None:
    """See that what is there of these runs was trained under their settings.

    Raises:
        UserError: with the first difference.
    """
    for run in runs:
        if run.state == "missing":
            continue
        there = flat(OmegaConf.to_container(run.folder.read_config(trust=True), resolve=False))
        wanted = flat(run.settings)
        for key in sorted(there.keys() | wanted.keys()):
            before, now = there.get(key, "not set"), wanted.get(key, "not set")
            if before != now and str(run.folder.path) not in str(now):  # the folder may have been moved
                raise UserError(
                    f"{run.folder.path} was trained under other settings: {key} is {before} there and {now} here. {ELSEWHERE}"
                )


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their keys with dots, but for what only says how a run is begun."""
    if isinstance(value, dict) and value:
        return {
            key: inner
            for name, part in value.items()
            if f"{prefix}{name}" not in ("resume", "trust")
            for key, inner in flat(part, f"{prefix}{name}.").items()
        }
    return {prefix.removesuffix("."): value}
