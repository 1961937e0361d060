"""The runs of a comparison: their folders, how far they are, and whether earlier ones had the same settings."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.folder_lock import hold_folder
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.overrides import quoted

ELSEWHERE = "Set another compare.folder, or remove this one."
NOT_COMPARED = (
    "resume",
    "trust",
    "overwrite",
    "rank_timeout",
    "rendezvous_timeout",
    "collective_timeout",
    "logger",
    "callbacks.progress_bar",
    "callbacks.divergence",
    # true in earlier versions, which had one validation an epoch in mind
    "callbacks.checkpoint.save_on_train_epoch_end",
    # of earlier versions: where a run writes
    "callbacks.checkpoint.dirpath",
    "callbacks.checkpoint.filename",
    "callbacks.last.path",
    "trainer.default_root_dir",
    "trainer.plugins",
)
"""Settings that change no number of a run."""


@dataclass(frozen=True)
class PlannedRun:
    """One training of a comparison."""

    variant: str
    seed: int
    overrides: list[str]
    """Those of hardneg-train, the seed included."""
    settings: dict[str, Any]
    """The config that they compose, resolved."""
    folder: RunFolder

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """The file with the output of the training."""
        return self.folder.path / "train.log"

    @property
    def state(self) -> Literal["finished", "interrupted", "missing"]:
        """How far the training is."""
        if self.folder.metrics.is_file():  # written last
            return "finished"
        return "interrupted" if self.folder.config.is_file() else "missing"


def run_folder(comparison: Path, variant: str, seed: int) -> RunFolder:
    """The folder of one run.

    Args:
        comparison: the folder of the comparison.
        variant: its name.
        seed: that of the run.

    >>> run_folder(Path("c"), "arc", 2).path.as_posix()
    'c/runs/arc/seed_2'
    """
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
    """Check that runs that have begun were trained under these settings, and would be resumed under them.

    Nothing else is asked before the code that their settings name is run, so a folder of someone else must not get through.

    Raises:
        UserError: they were not; names the first difference. A link leads out of a run folder.
    """
    for run in runs:
        if run.state == "missing":
            continue
        run.folder.check_links(ELSEWHERE)
        _check_same_overrides(run)
        existing = flattened(OmegaConf.to_container(run.folder.read_config(trust=True), resolve=False))
        wanted = flattened(run.settings)
        for key in sorted(existing.keys() | wanted.keys()):
            before, now = existing.get(key, "not set"), wanted.get(key, "not set")
            if before != now and str(run.folder.path) not in str(now):  # the folder may have been moved
                raise UserError(
                    f"{run.folder.path} was trained under other settings: {key} is {before} there and {now} here. {ELSEWHERE}"
                )


def _check_same_overrides(run: PlannedRun) -> None:
    """Refuse a run with overrides, which it would be resumed under, that this comparison does not give it."""
    own = [*run.overrides, f"monitor={quoted(str(run.settings.get('monitor')))}"]  # which a resumed run is given
    known = {_meaning(text) for text in own}
    for text in run.folder.read_overrides():
        if _meaning(text) not in known:
            raise UserError(
                f"{run.folder.path} was trained under other settings: its overrides.yaml has {text[:200]!r}, which this "
                f"comparison does not set. {ELSEWHERE}"
            )


def _meaning(text: str) -> str:
    """What an override does, however it is quoted."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
        return repr((override.type, override.get_key_element(), override.value()))
    except (HydraException, ValueError):
        return text


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted keys, without those that change no number of a run, and without groups that are empty.

    Args:
        value: nested settings.
        prefix: of their keys.

    >>> flattened({"data": {"root": "x"}, "seed": 1})
    {'data.root': 'x', 'seed': 1}
    >>> flattened({"data.root": "x"})  # a key with a dot is not one within another
    {"'data.root'": 'x'}
    """
    if isinstance(value, dict) and (value or prefix):
        return {
            key: inner
            for name, part in value.items()
            if f"{prefix}{name}" not in NOT_COMPARED
            for key, inner in flattened(part, f"{prefix}{repr(name) if '.' in str(name) else name}.").items()
        }
    return {prefix.removesuffix("."): value}
