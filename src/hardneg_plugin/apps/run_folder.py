"""A run folder: what a training writes, where it stands, and how it is read back."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.errors import UserError


class RunFolder:
    """config.yaml, overrides.yaml, checkpoints/, logs/, predictions/ and metrics.json of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.overrides = self.path / "overrides.yaml"
        self.metrics = self.path / "metrics.json"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.last = self.path / "checkpoints" / "last.ckpt"

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of an earlier run.

        Raises:
            UserError: there is none.
        """
        run = cls(path)
        if not run.config.is_file():
            raise UserError(f"Expected the folder of a training run, but {run.path} holds no config.yaml.")
        return run

    def predictions(self, name: str) -> Path:
        """The file of generated reports of a split."""
        return self.path / "predictions" / f"{name}.jsonl"

    def write_config(self, config: DictConfig, overrides: list[str]) -> None:
        """The composed config without interpolations, and the overrides that led to it."""
        with replacing(self.config) as file:
            file.write(OmegaConf.to_yaml(config, resolve=True))
        with replacing(self.overrides) as file:
            file.write(OmegaConf.to_yaml(overrides))

    def read_config(self) -> DictConfig:
        """The composed config."""
        config = OmegaConf.load(self.config)
        assert isinstance(config, DictConfig)
        return config

    def read_overrides(self) -> list[str]:
        """The overrides of the command line that started the run."""
        return list(OmegaConf.load(self.overrides)) if self.overrides.is_file() else []


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Write a whole text file: it stands under its name only once everything is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, content: Any) -> None:
    """One JSON document."""
    with replacing(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """One JSON document per line."""
    with replacing(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
