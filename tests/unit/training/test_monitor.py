"""By which score the checkpoint is chosen where the user names none."""

import hydra
import pytest
from omegaconf import OmegaConf

from hardneg_plugin.comparison.composing import compose_config, run_settings
from hardneg_plugin.config import conf_dir
from hardneg_plugin.training.monitor import resolve_monitor

FINDINGS, SPECIFICITY, BLEU = "val/findings_attributes_F1", "val/specificity", "val/BLEU-4"


def composed(*overrides):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], FINDINGS),
        (["data.regime=clinic", "model=host"], FINDINGS),
        (["data=annotations", "data.root=x"], FINDINGS),
        (["data=prepared", "data.root=x"], FINDINGS),
        (["data=mimic_cxr", "data.root=x"], FINDINGS),
        (["data=prepared", "data.root=x", "data.findings=null"], SPECIFICITY),
        (["metrics.caption=null"], FINDINGS),
        (["monitor=val/CIDEr"], "val/CIDEr"),
        (["model=pretrain"], "val/R@5"),
        (["experiment=ithn_released"], BLEU),
        (["experiment=ithn_released", "monitor=auto"], FINDINGS),
        *[([f"experiment={name}", "data.root=x"], BLEU) for name in ("r2gen_iu_xray", "r2gen_mimic_cxr")],
        *[([f"experiment={name}", "data.root=x"], BLEU) for name in ("r2gencmn_iu_xray", "r2gencmn_mimic_cxr")],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_by_findings_where_they_can_be_read_and_as_released_in_released_recipes(overrides, expected):
    config = composed(*overrides)
    resolve_monitor(config)
    assert config.monitor == expected
    checkpoint = OmegaConf.to_container(config, resolve=False)["callbacks"]["checkpoint"]
    assert (checkpoint["monitor"], checkpoint["mode"]["monitor"]) == ("${monitor}", "${monitor}")


@pytest.mark.parametrize(
    ("overrides", "expected"), [([], FINDINGS), (["data.regime=clinic", "monitor=val/R@5"], "val/R@5")]
)
def test_a_comparison_knows_the_name_that_its_runs_will_write(overrides, expected, tmp_path):
    settings = run_settings(compose_config(overrides), 3, tmp_path)
    assert settings["monitor"] == settings["callbacks"]["checkpoint"]["monitor"] == expected
    assert settings["seed"] == 3
