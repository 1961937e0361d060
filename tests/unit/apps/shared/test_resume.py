"""The command line of a resumed run."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hardneg_plugin.apps.shared.resume import resumed
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.overrides import quoted


def test_without_resume_nothing_changes():
    assert resumed(["seed=2"]) == ["seed=2"]
    assert resumed(["resume=null"]) == ["resume=null"]


def test_a_resumed_run_comes_with_its_own_overrides_first_and_its_folder_last(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "overrides.yaml").write_text(OmegaConf.to_yaml(["seed=3", "hardening=ascent"]))
    assert resumed([f"resume={tmp_path}", "trainer.max_epochs=9"]) == [
        "seed=3",
        "hardening=ascent",
        f"resume={tmp_path}",
        "trainer.max_epochs=9",
        f"hydra.run.dir='{tmp_path}'",
    ]


@pytest.mark.parametrize("monitor", ["val/BLEU-4", "val/R@5", "odd, 'name'"])
def test_a_resumed_run_keeps_the_score_that_chooses_its_checkpoint(tmp_path, monitor):
    """An earlier version had another default; a score that the run or the user names is not touched."""
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({"seed": 1, "monitor": monitor}))
    (tmp_path / "overrides.yaml").write_text(OmegaConf.to_yaml(["seed=3"]))
    arguments = resumed([f"resume={tmp_path}"])
    (override,) = OverridesParser.create().parse_overrides(arguments[1:2])
    assert (arguments[0], override.key_or_group, override.value()) == ("seed=3", "monitor", monitor)
    (tmp_path / "overrides.yaml").write_text(OmegaConf.to_yaml(["monitor=val/report_loss"]))
    assert [text for text in resumed([f"resume={tmp_path}"]) if "monitor" in text] == ["monitor=val/report_loss"]


def test_a_monitor_that_looks_up_a_value_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("monitor: ${oc.env:HOME}\n")
    with pytest.raises(UserError, match="looks up a value"):
        resumed([f"resume={tmp_path}"])


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml"):
        resumed([f"resume={tmp_path}"])


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "a${b}c"])
def test_a_folder_whose_name_hydra_would_look_up_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="rename the folder"):
        resumed([f"resume={quoted(tmp_path / name)}"])
