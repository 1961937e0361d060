"""Every example runs as its reader would run it, and shows what it says."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.functional.hardening import Ascent

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# How much closer to its own report an image has to be in the last epoch than it was in the first, a cosine: about half of what
# the example reaches.
LEAST_GAIN = {
    "ground_what_is_known": 0.04,
    "own_hydra_app": 0.06,
    "wrap_hf_trainer": 0.02,
    "wrap_huggingface": 0.02,
    "wrap_manual_optimisation": 0.1,
    "wrap_vlm_lora": 0.02,
    "wrap_without_touching": 0.06,
    "wrap_your_module": 0.06,
}


@pytest.fixture
def here(monkeypatch, tmp_path, capfd):
    """Run an example as a script in this process and an empty folder: a fresh one would spend ten seconds on imports. Gives
    exit code, output and error output. What an example registers with Hydra is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)  # a command run in this process sets it
    monkeypatch.syspath_prepend(EXAMPLES)  # where Python looks first for what a script imports
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    plugins = Plugins.instance().plugin_type_to_subclass_list
    monkeypatch.setitem(plugins, SearchPathPlugin, list(plugins[SearchPathPlugin]))

    def call(name, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return SimpleNamespace(code=code, **capfd.readouterr()._asdict())

    yield call
    GlobalHydra.instance().clear()


def gaps(printed):
    return [float(gap) for gap in re.findall(r"^epoch \d+: .* hard negative by ([+-][\d.]+)", printed, re.M)]


def test_the_examples_are_those_this_test_knows_of():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*LEAST_GAIN, "own_data"}


@pytest.mark.parametrize("name", LEAST_GAIN)
def test_alignment_improves(name, tmp_path, here):
    result = here(name)
    assert result.code == 0, result.err[-3000:]
    printed = result.out
    assert not list(tmp_path.iterdir()), "an example leaves no files"
    first, *_, last = gaps(printed)
    assert last > first + LEAST_GAIN[name]
    if name == "ground_what_is_known":
        matching, entities = map(float, re.findall(r"loss in the last step: ([\d.]+)", printed))
        assert matching < 0.69 + 0.02  # no worse than a coin
        assert 0 < entities < 0.3  # an untrained one has 0.69
    if name == "wrap_without_touching":
        assert "Captioner is unchanged: True" in printed
        assert "\nCaptioner reads the checkpoint: True" in printed
        # two heads without bias, and the logit scale
        weights = 64 * 16 + 32 * 16 + 1
        assert f"HardNegativeCaptioner reads it: True, with {weights} weights more" in printed


def test_the_hydra_app_takes_overrides_of_our_groups(here):
    overrides = ["hardening=ascent", "negatives=queue", "negatives.size=256"]
    result = here("own_hydra_app", *overrides, "studies=96", "epochs=2")
    assert result.code == 0, result.err[-3000:]
    assert len(gaps(result.out)) == 2

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(EXAMPLES), version_base="1.3"):
        objective = hydra.utils.instantiate(hydra.compose("own_hydra_app", overrides).hard_negatives)
    assert objective.hardening == Ascent(margin=0.02)
    assert objective.negatives.queue.size == 256


def test_a_bad_override_gets_the_message_of_hydra(here):
    result = here("own_hydra_app", "hardening=arcs")
    assert result.code == 1
    assert "Available options in 'hardening':\n\talternating\n\tarc\n\tascent" in result.err


def test_own_data_are_in_the_layout_that_is_read(tmp_path, here):
    assert here("own_data", "my_studies").out == "40 studies in my_studies/\n"
    studies = AnnotatedStudies(root=tmp_path / "my_studies", resize=64, crop=64)
    assert [len(studies.split(split)) for split in ("train", "val", "test")] == [24, 8, 8]
