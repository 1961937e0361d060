"""Every config composes, and every choice of every group builds what it names."""

from pathlib import Path

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hardneg_plugin.config import conf_dir
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Released, Segment
from hardneg_plugin.objectives import Absolute, Hinge, InBatch, InfoNCE, ReleasedAlignment, Triplet
from hardneg_plugin.schedule import Constant, Cosine, Exponential, Linear

STRATEGIES = {
    "hardening": {
        "arc": Arc(margin=0.02),
        "segment": Segment(margin=0.02),
        "projection": Projection(),
        "ascent": Ascent(margin=0.02),
        "released": Released(),
        "none": None,
    },
    "alignment": {"info_nce": InfoNCE(), "triplet": Triplet(), "released": ReleasedAlignment()},
    "separation": {"hinge": Hinge(margin=0.5), "absolute": Absolute(), "none": None},
    "schedule": {
        "linear": Linear(warmup=0.05),
        "cosine": Cosine(warmup=0.05),
        "exponential": Exponential(),
        "constant": Constant(warmup=0.05),
    },
    "negatives": {"in_batch": InBatch()},
}


def compose(*overrides, name="train"):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(name, list(overrides), return_hydra_config=True)


def choices(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def test_conf_dir_is_the_checkout_here():
    assert conf_dir() == Path(__file__).resolve().parents[1] / "conf"


@pytest.mark.parametrize("group", STRATEGIES)
def test_strategies_are_what_the_configs_say(group):
    assert choices(group) == sorted(STRATEGIES[group])
    for choice, expected in STRATEGIES[group].items():
        assert instantiate(compose(f"{group}={choice}")[group]) == expected


@pytest.mark.parametrize(
    "override",
    [
        *(
            f"{group}={choice}"
            for group in ("visual", "backbone", "model", "trainer", "lr_schedule")
            for choice in choices(group)
        ),
        *(f"experiment={choice}" for choice in choices("experiment")),
        "data=phantom",
        "tokenizer=huggingface tokenizer.name_or_path=x",
        *(f"data={name} data.root=x" for name in ("annotations", "iu_xray", "mimic_cxr")),
    ],
)
def test_every_choice_composes_and_resolves(override):
    config = compose(*override.split())
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.runtime.output_dir = "outputs/x"
    config.hydra.job.num = 0
    with_values = OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]))
    assert with_values["seed"] == 1


def test_the_released_recipe_is_the_released_one():
    config = compose("experiment=ithn_released")
    assert dict(config.weights) == {"report": 0.7, "alignment": 0.1, "separation": 0.2}
    assert instantiate(config.schedule) == Exponential(rate=0.01, unit="epoch")
    assert (instantiate(config.hardening), instantiate(config.alignment)) == (Released(), ReleasedAlignment())


def test_the_gpu_recipe():
    config = compose("trainer=gpu")
    assert (config.trainer.precision, config.model.channels_last, config.optimizer.fused) == ("bf16-mixed", True, True)


def test_released_data_settings():
    iu, mimic = compose("data=iu_xray", "data.root=x").data, compose("data=mimic_cxr", "data.root=x").data
    assert (iu.max_length, mimic.max_length) == (60, 100)
    assert (iu.datamodule.tokenizer.min_count, mimic.datamodule.tokenizer.min_count) == (3, 10)
    assert (iu.datamodule.source.check, mimic.datamodule.source.check) == ("decode", "stat")
    assert (iu.datamodule.source.resize, iu.datamodule.source.crop) == (256, 224)
    assert mimic.datamodule.tokenizer.cleaning == "mimic_cxr"
