"""One run of a command as plain values, for processes that do it together."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps.shared.hydra_command import run_directory


@dataclass(frozen=True)
class Job:
    """One run of hardneg-train or hardneg-evaluate.

    Args:
        settings: the resolved config.
        folder: the run folder, absolute.
        overrides: of the command line, without `resume` and `trust`.
        logging: for `logging.config.dictConfig`.
        command: "train" or "evaluate": a module of `apps` and the function in it that does the job.
    """

    settings: dict[str, Any]
    folder: str
    overrides: list[str]
    logging: dict[str, Any]
    command: str = "train"

    @classmethod
    def of_command_line(cls, config: DictConfig, command: str = "train") -> "Job":
        """The job that Hydra is running."""
        settings: Any = OmegaConf.to_container(config, resolve=True)
        hydra = HydraConfig.get()
        overrides = [o for o in hydra.overrides.task if not o.startswith(("resume=", "trust="))]
        logging: Any = OmegaConf.to_container(hydra.job_logging, resolve=True)
        return cls(settings, str(run_directory()), overrides, logging, command)

    @classmethod
    def read(cls, path: Path) -> "Job":
        """The job that `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write it for other processes."""
        path.write_text(json.dumps(vars(self)), encoding="utf-8")

    @property
    def config(self) -> DictConfig:
        """The settings as a config."""
        config = OmegaConf.create(self.settings)
        assert isinstance(config, DictConfig)
        return config
