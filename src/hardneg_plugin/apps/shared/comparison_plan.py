"""The runs of a comparison, planned and checked before anything heavy is imported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hardneg_plugin.apps.shared.hydra_command import explain
from hardneg_plugin.apps.shared.settings_check import check_types
from hardneg_plugin.apps.shared.train_settings import check_settings
from hardneg_plugin.comparison.composing import compose_config, outside_of_hydra, run_settings
from hardneg_plugin.comparison.planned_runs import PlannedRun, run_folder
from hardneg_plugin.comparison.settings import ComparisonSettings, overrides_of_variants, with_overrides_of_data
from hardneg_plugin.errors import UserError


@dataclass
class ComparisonPlan:
    """What hardneg-compare is asked for: at first the arguments, after `make` also the settings and the runs.

    Args:
        for_launcher: overrides of `hydra.launcher`.
        for_runs: overrides of hardneg-train, for every run.
    """

    for_launcher: list[str] = field(default_factory=list)
    for_runs: list[str] = field(default_factory=list)
    settings: ComparisonSettings = field(init=False)
    runs: list[PlannedRun] = field(init=False)

    def make(self, config: DictConfig) -> None:
        """Read the settings of the comparison and compose those of its runs.

        Args:
            config: composed from the arguments about the comparison.

        Raises:
            UserError: a setting of the comparison is out of range, or hardneg-train would refuse those of a run.
        """
        values: Any = OmegaConf.to_container(config.compare, resolve=True)
        self.settings = ComparisonSettings(**values)
        if self.for_launcher and self.settings.launcher is None:
            raise UserError(
                f"{self.for_launcher[0]} needs a launcher: add compare.launcher=..., such as submitit_slurm."
            )
        with outside_of_hydra():
            self.runs = planned(self.settings, self.for_launcher, self.for_runs)


def planned(settings: ComparisonSettings, for_launcher: Sequence[str], for_runs: list[str]) -> list[PlannedRun]:
    """The runs of a comparison, variant by variant, with composed settings.

    Args:
        settings: of the comparison.
        for_launcher: overrides of `hydra.launcher`.
        for_runs: overrides of hardneg-train, for every run.

    Raises:
        UserError: for settings that hardneg-train would refuse before it begins.
    """
    runs = []
    launcher = [f"hydra/launcher={settings.launcher}", *for_launcher] if settings.launcher else []
    for name, overrides in overrides_of_variants(settings, for_runs).items():
        try:
            config = compose_config([*launcher, *overrides])
            own = with_overrides_of_data(settings, config.hydra.runtime.choices.get("data"), overrides)
            if own != overrides:
                config = compose_config([*launcher, *own])
            for seed in settings.seeds:
                folder = run_folder(settings.path, name, seed)
                values = run_settings(config, seed, folder.path)
                runs.append(PlannedRun(name, seed, [*own, f"seed={seed}"], values, folder))
            check_types(config, "train")
            check_settings(config)
            _check_scored(config)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            if "hydra/launcher" in str(error):
                raise UserError(
                    f"compare.launcher: Hydra has no launcher {settings.launcher} here. "
                    "pip install 'hardneg-plugin[slurm]' brings submitit_slurm and submitit_local."
                ) from error
            raise UserError(f"variant {name}: {explain(error, 'train')}") from error
    return runs


def _check_scored(config: DictConfig) -> None:
    """Refuse runs without the scores that are compared."""
    for key in ("limit_val_batches", "limit_test_batches"):
        if config.trainer[key] == 0:
            raise UserError(
                f"trainer.{key}=0: expected scores of val and test, by which runs are compared. Leave it out."
            )
