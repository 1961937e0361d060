"""What overrides of hardneg-train lead to, composed without running anything."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from hardneg_plugin.comparison.planned_runs import flat
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError


@contextmanager
def outside_of_hydra() -> Iterator[None]:
    """Within a command that Hydra runs, a place where configs can be composed as outside of it."""
    state = GlobalHydra.instance()
    running = state.hydra
    state.clear()
    try:
        yield
    finally:
        state.hydra = running


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of hardneg-train under these overrides, Hydra's own part included.

    Raises:
        HydraException, OmegaConfBaseException: they do not go with the configs.
    """
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: DictConfig = hydra.compose("train", list(overrides), return_hydra_config=True)
    return config


def settings_of(config: DictConfig, seed: int, folder: Path) -> dict[str, Any]:
    """What the run of a composed config writes as its config.yaml.

    Args:
        config: of `composed`.
        seed: of the run.
        folder: of the run.

    Raises:
        UserError: something must be given and is not.
        OmegaConfBaseException: an interpolation leads nowhere.
    """
    config = config.copy()
    with open_dict(config):
        config.seed = seed
        config.hydra.runtime.output_dir = str(folder)
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for key, value in flat(OmegaConf.to_container(task)).items():
        if value == "???":
            raise UserError(f"{key} must be given: add {key}=... to the command line.")
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    try:
        hydra_config.cfg = config  # what ${hydra:...} reads
        settings: Any = OmegaConf.to_container(task, resolve=True)
    finally:
        hydra_config.cfg = before
    return dict(settings)
