"""The config that overrides of hardneg-train lead to, composed without a run."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from hardneg_plugin.comparison.planned_runs import flattened
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.training.monitor import resolve_monitor


def outside_of_hydra() -> AbstractContextManager[None]:
    """Within a command that Hydra runs, compose configs as if outside of it."""
    return _replaced(GlobalHydra.instance(), "hydra", None)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of hardneg-train, Hydra's part included.

    Raises:
        HydraException, OmegaConfBaseException: an override does not fit the configs.
    """
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: DictConfig = hydra.compose("train", list(overrides), return_hydra_config=True)
    return config


def run_settings(config: DictConfig, seed: int, folder: Path) -> dict[str, Any]:
    """The settings that a run of a composed config writes to its config.yaml.

    Args:
        config: what `compose_config` gave.
        seed: that of the run.
        folder: that of the run.

    Raises:
        UserError: a mandatory value is missing.
        OmegaConfBaseException: an interpolation leads nowhere.
    """
    config = config.copy()
    with open_dict(config):
        config.seed = seed
        config.hydra.runtime.output_dir = str(folder)
    resolve_monitor(config)
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for key, value in flattened(OmegaConf.to_container(task)).items():
        if value == "???":
            raise UserError(f"{key} must be given: add {key}=... to the command line.")
    with _replaced(HydraConfig.instance(), "cfg", config):  # what ${hydra:...} reads
        settings: Any = OmegaConf.to_container(task, resolve=True)
    return dict(settings)


@contextmanager
def _replaced(state: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute of a global state of Hydra another value for a while."""
    before = getattr(state, name)
    setattr(state, name, value)
    try:
        yield
    finally:
        setattr(state, name, before)
