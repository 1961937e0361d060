"""A run folder: the files that a training writes, and how they are read back."""

import difflib
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_text_file
from hardneg_plugin.runs.trusted import check_trusted
from hardneg_plugin.runs.yaml_file import read_yaml

BELOW = ("*/config.yaml", "*/*/config.yaml", "runs/*/*/config.yaml")
"""Where a folder of runs, of a sweep or of a comparison has its runs."""


class RunFolder:
    """The files of one run: config.yaml, overrides.yaml, checkpoints/, logs/, predictions/, tasks/ and metrics.json.

    >>> RunFolder("outputs/run").predictions("test").as_posix()
    'outputs/run/predictions/test.jsonl'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.overrides = self.path / "overrides.yaml"
        self.metrics = self.path / "metrics.json"
        self.tasks = self.path / "tasks"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.last = self.path / "checkpoints" / "last.ckpt"

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of an earlier run.

        Raises:
            UserError: there is no run.
        """
        run = cls(path)
        if not run.config.is_file():
            near = difflib.get_close_matches(run.path.name, _runs_beside(run.path), n=1)
            meant = f"; did you mean {run.path.parent / near[0]}?" if near else _told_runs_below(run.path)
            raise UserError(f"Expected the folder of a training run, but {run.path} holds no config.yaml{meant}")
        return run

    def check_links(self, remedy: str = "If it is yours, add trust=true.") -> None:
        """Refuse symbolic links below the run folder that lead out of it: a run of someone else would be written through them.

        Args:
            remedy: a sentence that says what to do.

        Raises:
            UserError: with the first such link.
        """
        top = os.path.realpath(self.path)
        for folder, folders, files in os.walk(top):
            for link in (os.path.join(folder, name) for name in sorted((*folders, *files))):
                target = os.path.realpath(link) if os.path.islink(link) else top
                if os.path.commonpath([top, target]) != top:
                    raise UserError(
                        f"{link} is a symbolic link to {target}, out of the run folder: through it a run from someone else would "
                        f"read or write your files. {remedy}"
                    )

    def predictions(self, name: str) -> Path:
        """The file of generated reports of a split."""
        return self.path / "predictions" / f"{name}.jsonl"

    def write_config(self, config: DictConfig, overrides: list[str]) -> None:
        """Write the composed config and the overrides that led to it.

        Args:
            config: written with its interpolations resolved.
            overrides: those of the command line.
        """
        with whole_text_file(self.config) as file:
            file.write(OmegaConf.to_yaml(config, resolve=True))
        with whole_text_file(self.overrides) as file:
            file.write(OmegaConf.to_yaml(overrides))

    def read_config(self, *, trust: bool = False) -> DictConfig:
        """The composed config.

        Args:
            trust: allow any `_target_`, whose code will run, and links that lead out of the folder.

        Raises:
            UserError: it cannot be read, is not that of a run, names a `_target_` that is not trusted, or a link leads out.
        """
        if trust is not True:  # a text such as "no" would be true
            self.check_links()
        config = read_yaml(self.config)
        if not isinstance(config, DictConfig):
            raise UserError(f"Expected the config of a training run in {self.config}, but it holds no keys.")
        missing = [key for key in ("data", "model", "decoding") if not isinstance(config.get(key), DictConfig)]
        if missing:
            raise UserError(f"Expected the config of a training run, but {self.config} has no {', '.join(missing)}.")
        if trust is not True:
            check_trusted(config, str(self.config))
        return config

    def read_monitor(self) -> str | None:
        """The score that chooses its best checkpoint, as the config has it; None where it names none.

        Raises:
            UserError: the config cannot be read.
        """
        config: Any = OmegaConf.to_container(read_yaml(self.config), resolve=False)
        monitor = config.get("monitor") if isinstance(config, dict) else None
        return monitor if isinstance(monitor, str) else None

    def read_overrides(self) -> list[str]:
        """The overrides of the command line that started the run; empty without a file of them.

        Raises:
            UserError: the file cannot be read.
        """
        if not self.overrides.is_file():
            return []
        # unresolved: interpolations refer to the config that is to be composed
        overrides = OmegaConf.to_container(read_yaml(self.overrides), resolve=False)
        if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
            raise UserError(f"Expected a list of overrides in {self.overrides}, but it holds something else.")
        return [str(override) for override in overrides]


def _told_runs_below(path: Path) -> str:
    """The end of the message about a folder that holds runs, as that of a comparison does."""
    try:
        below = sorted(config.parent for pattern in BELOW for config in path.glob(pattern))
    except OSError:
        return "."
    if not below:
        return "."
    others = f" and {len(below) - 3} more" if len(below) > 3 else ""
    return f"; runs below it: {', '.join(map(str, below[:3]))}{others}."


def _runs_beside(path: Path) -> list[str]:
    try:
        return [config.parent.name for config in path.parent.glob("*/config.yaml")]
    except OSError:
        return []
