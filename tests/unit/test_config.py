"""`register_configs`: our groups in a Hydra app that knows nothing of our folder, beside configs of its own."""

import inspect
import re
from dataclasses import dataclass

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from hardneg_plugin.config import GROUPS, conf_dir, register_configs
from hardneg_plugin.functional.hardening import Ascent
from hardneg_plugin.objectives import HardNegativeObjective, Queue

CHOICES = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in GROUPS}
# each choice of each group in some row
ROWS = [
    {group: choices[row % len(choices)] for group, choices in CHOICES.items()}
    for row in range(max(map(len, CHOICES.values())))
]
OWN_SCHEDULE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 10}


@pytest.fixture(autouse=True)
def fresh_hydra(monkeypatch):
    """Store and plugins as they were, whatever a test registers."""
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    plugins = Plugins.instance().plugin_type_to_subclass_list
    monkeypatch.setitem(plugins, SearchPathPlugin, list(plugins[SearchPathPlugin]))


@pytest.fixture
def app(tmp_path):
    """Write the configs of an app, by their path; gives a function that composes its `config`."""

    def make(files):
        for name, content in files.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else OmegaConf.to_yaml(content))

        def compose(*overrides, name="config"):
            with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
                return hydra.compose(name, list(overrides))

        return compose

    return make


def test_the_groups_are_what_an_objective_is_made_of():
    folders = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert set(GROUPS) == folders & set(inspect.signature(HardNegativeObjective).parameters)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["hardening"])
def test_an_app_gets_what_our_own_command_gets(row, app):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        own = hydra.compose("train", [f"{group}={choice}" for group, choice in row.items()])
    expected = {group: OmegaConf.to_container(own[group]) for group in row}
    register_configs()
    assert app({"config": {"defaults": [{group: choice} for group, choice in row.items()]}})() == expected
    register_configs("hardneg")
    below = [{f"hardneg/{group}": choice} for group, choice in row.items()]
    assert app({"config": {"defaults": below}})() == {"hardneg": expected}


def test_a_whole_objective_on_the_command_line(app):
    register_configs("hardneg")
    compose = app(
        {
            "config": {
                "defaults": [{"hardneg/hardening": "arc"}, {"hardneg/negatives": "in_batch"}, "_self_"],
                "hardneg": {"_target_": "hardneg_plugin.HardNegativeObjective"},
            }
        }
    )
    config = compose("hardneg/hardening=ascent", "hardneg/negatives=queue", "hardneg.negatives.size=256")
    objective = hydra.utils.instantiate(config.hardneg)
    assert objective.hardening == Ascent(margin=0.02)
    assert isinstance(objective.negatives, Queue)
    assert objective.negatives.queue.size == 256


def test_a_group_of_the_app_is_its_own_as_a_whole(app, recwarn):
    register_configs()
    compose = app(
        {
            "config": {"defaults": [{"hardening": "arc"}, {"schedule": "cosine"}]},
            "schedule/cosine": OWN_SCHEDULE,
        }
    )
    assert compose().schedule == OWN_SCHEDULE
    assert compose("hardening=ascent").hardening._target_ == "hardneg_plugin.functional.hardening.Ascent"
    with pytest.raises(MissingConfigException, match=r"Could not find 'schedule/linear'[^:]*:\s+cosine\s+Config"):
        compose("schedule=linear")
    assert not [warning for warning in recwarn if "schema" in str(warning.message)]


@pytest.mark.parametrize("early", [True, False], ids=["stored before", "stored after"])
def test_an_entry_that_the_app_stored_stays(early, app):
    @dataclass
    class Cosine:
        T_max: int = 10

    def store():
        ConfigStore.instance().store(group="schedule", name="cosine", node=Cosine)

    if early:
        store()
    register_configs()
    if not early:
        store()
    compose = app({"config": {"defaults": [{"schedule": "cosine"}]}})
    assert compose().schedule == {"T_max": 10}


def test_under_another_name_both_are_there(app):
    register_configs("hardneg")
    compose = app(
        {
            "config": {"defaults": [{"schedule": "cosine"}, {"hardneg/schedule": "cosine"}]},
            "schedule/cosine": OWN_SCHEDULE,
        }
    )
    config = compose("hardneg/schedule=linear", "hardneg.schedule.peak=0.5")
    assert config.schedule == OWN_SCHEDULE
    assert (config.hardneg.schedule._target_, config.hardneg.schedule.peak) == (
        "hardneg_plugin.objectives.schedule.Linear",
        0.5,
    )


def test_configs_that_hydra_finds_later_are_not_mixed_with_ours(app, tmp_path):
    register_configs()
    (tmp_path / "team" / "schedule").mkdir(parents=True)
    compose = app(
        {
            "config": {
                "defaults": ["_self_", {"schedule": "cosine"}],
                "hydra": {"searchpath": [f"file://{tmp_path / 'team'}"]},
            },
            "team/schedule/cosine": OWN_SCHEDULE,
            "team/schedule/step": OWN_SCHEDULE,
        }
    )
    assert compose("schedule=step").schedule == OWN_SCHEDULE
    with pytest.raises(
        ConfigCompositionException, match=re.escape("'schedule/cosine' is validated against ConfigStore")
    ):
        compose()


def test_nothing_else_of_our_folder_is_there(app):
    register_configs()
    compose = app({"config": {"defaults": [{"hardening": "arc"}]}})
    others = {path.name for path in conf_dir().iterdir() if path.is_dir()} - set(GROUPS)
    assert {"optimizer", "data", "model", "trainer"} <= others
    as_values = {other: next((conf_dir() / other).glob("*.yaml")).stem for other in others}
    config = compose(*(f"+{other}={choice}" for other, choice in as_values.items()))
    assert {other: config[other] for other in others} == as_values  # no groups, so values like any others
    for path in conf_dir().glob("*.yaml"):
        with pytest.raises(MissingConfigException):
            compose(name=path.stem)
