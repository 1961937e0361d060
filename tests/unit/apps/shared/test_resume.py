"""The command line of a resumed run."""

import pytest
from omegaconf import OmegaConf

from hardneg_plugin.apps.shared.resume import resumed
from hardneg_plugin.errors import UserError


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


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml"):
        resumed([f"resume={tmp_path}"])
