"""The commands of docs/results, which made its figures, are still commands."""

import re
import shlex
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hardneg_plugin.apps.commands import divided
from hardneg_plugin.apps.shared.comparison_plan import planned
from hardneg_plugin.apps.shared.train_settings import check_settings
from hardneg_plugin.comparison.composing import compose_config
from hardneg_plugin.comparison.settings import ComparisonSettings, overrides_of_variants
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError

PAGES = sorted((Path(__file__).resolve().parents[3] / "docs" / "results").glob("*.md"))
COMMANDS = {page.stem: re.findall(r"^    hardneg-compare ((?:.*\\\n)*.*)$", page.read_text(), re.M) for page in PAGES}


def test_the_commands_of_the_results():
    variants: dict[str, list[int]] = {}
    for page, command in ((page, command) for page, commands in COMMANDS.items() for command in commands):
        own, _, for_runs = divided(shlex.split(command.replace("\\\n", " ")))
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = hydra.compose("compare", own)
        settings = ComparisonSettings(**OmegaConf.to_container(config.compare, resolve=True))
        overrides = overrides_of_variants(settings, for_runs)
        variants.setdefault(page, []).append(len(overrides))
        check_settings(compose_config(overrides[settings.variants[-1]]))
    assert variants == {
        "PLAN": [6, 7, 10, 6, 2, 5],
        "clinic_regime": [7],
        "reclf_and_gk_mvlp": [11],
        "uniform_regime": [10, 2],
    }


def test_a_comparison_is_planned_whatever_hydra_composed_before(monkeypatch, tmp_path):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        monkeypatch.setattr(HydraConfig.instance(), "cfg", hydra.compose("train", [], return_hydra_config=True))
        config = hydra.compose("compare", [f"compare.folder={tmp_path}", "compare.seeds=[1]"])
    runs = planned(ComparisonSettings(**OmegaConf.to_container(config.compare, resolve=True)), [], [])
    assert len({str(run.folder.path) for run in runs}) == len(runs) > 1
    assert all(str(tmp_path) not in str(run.settings) for run in runs)  # where a run writes is no setting of it


@pytest.mark.parametrize("split", ["val", "test"])
def test_runs_without_the_scores_that_are_compared_are_refused(split, tmp_path):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("compare", [f"compare.folder={tmp_path}", "compare.seeds=[1]"])
    settings = ComparisonSettings(**OmegaConf.to_container(config.compare, resolve=True))
    with pytest.raises(UserError, match=f"trainer.limit_{split}_batches=0: expected scores of val and test"):
        planned(settings, [], [f"trainer.limit_{split}_batches=0"])
