"""Every config composes, and every choice of every group builds what it names."""

import inspect
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hardneg_plugin.backbones.official import load_official
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.edited import ReportEdits
from hardneg_plugin.data.phantom import PhantomEdits
from hardneg_plugin.data.phantom.regimes import REGIMES
from hardneg_plugin.data.token_emphasis import FindingWords, InverseDocumentFrequency, LackedByOthers
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.functional.hardening import Released
from hardneg_plugin.grounding import Boxes, Cells, Learned
from hardneg_plugin.knowledge import EnglishEdits
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import (
    Absolute,
    Bank,
    ByEmphasis,
    ByImage,
    ByText,
    EditMargin,
    GroundedKnowledgeObjective,
    Hinge,
    InBatch,
    InfoNCE,
    LikelihoodMargin,
    Paired,
    Queue,
    RelationEnhancedObjective,
    ReleasedAlignment,
    Triplet,
)
from hardneg_plugin.objectives.schedule import Constant, Cosine, Exponential, Linear

# those of hardening: tests/unit/functional/test_hardening.py
STRATEGIES: dict[str, dict[str, Any]] = {
    "alignment": {"info_nce": InfoNCE(), "triplet": Triplet(), "released": ReleasedAlignment()},
    "token_weights": {
        "by_image": ByImage(),
        "by_text": ByText(),
        "by_training_reports": ByEmphasis(),
        "by_frequency": ByEmphasis(scale=17.0),
        "finding_words": ByEmphasis(),
        "none": None,
    },
    "likelihood_margin": {
        **{form: LikelihoodMargin(form=form) for form in ("softplus", "hinge", "info_nce")},
        "none": None,
    },
    "edit_margin": {"softplus": EditMargin(), "none": None},
    "separation": {"hinge": Hinge(margin=0.5), "absolute": Absolute(), "none": None},
    "schedule": {
        "linear": Linear(warmup=0.05),
        "cosine": Cosine(warmup=0.05),
        "exponential": Exponential(),
        "constant": Constant(warmup=0.05),
    },
    "negatives": {"in_batch": InBatch(), "queue": Queue(), "bank": Bank(), "paired": Paired()},
}


def settings(strategy):
    """What a strategy was made with: dataclasses compare by it, modules do not."""
    if not isinstance(strategy, torch.nn.Module):
        return strategy
    return type(strategy), {
        name: value for name, value in vars(strategy).items() if isinstance(value, int | float | None)
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
        config = compose(f"{group}={choice}", *(["data.paired.table=x"] if choice == "paired" else []))
        assert settings(instantiate(config[group])) == settings(expected)


@pytest.mark.parametrize(
    ("choice", "objective", "given"),
    [
        ("reclf", RelationEnhancedObjective, set()),
        ("gk_mvlp", GroundedKnowledgeObjective, {"knowledge", "entity_width"}),
    ],
)
def test_further_objectives_have_the_defaults_of_their_classes(choice, objective, given):
    config = compose(f"objective={choice}")
    assert settings(instantiate(config.alignment)) == settings(InfoNCE())
    own = OmegaConf.to_container(config.model.hard_negatives, resolve=True)
    plain = compose().model.hard_negatives
    assert own.pop("_target_") == f"hardneg_plugin.objectives.{objective.__name__}"
    defaults = inspect.signature(objective).parameters
    more = own.keys() - plain.keys()
    assert {key: own[key] for key in more - given} == {key: defaults[key].default for key in more - given}
    assert more == defaults.keys() - {"image_width", "report_width", "width", "grounding", "options"}


@pytest.mark.parametrize(
    ("choice", "emphasis"),
    [
        ("by_training_reports", LackedByOthers()),
        ("by_frequency", InverseDocumentFrequency()),
        ("finding_words", FindingWords()),
    ],
)
def test_weights_by_training_reports_have_the_emphasis_that_they_need(choice, emphasis):
    assert instantiate(compose(f"token_weights={choice}").data.datamodule.emphasis) == emphasis


@pytest.mark.parametrize(("overrides", "regime"), [((), "uniform"), (("data.regime=clinic",), "clinic")])
def test_regimes_of_the_built_in_studies(overrides, regime):
    source = instantiate(compose(*overrides).data.datamodule.source)
    assert source.split("val").regime is REGIMES[regime]


@pytest.mark.parametrize(
    ("overrides", "editor"),
    [
        (("data.regime=clinic",), PhantomEdits("clinic")),
        (("data=annotations", "data.root=x"), EnglishEdits()),
        (("data=prepared", "data.root=x", "data.editor.kinds=[side,place]"), EnglishEdits(["side", "place"])),
    ],
)
def test_edits_are_of_the_kind_of_text_that_the_data_have(overrides, editor):
    edits = instantiate(compose("edit_margin=softplus", "edit_margin.changes=2", *overrides).data.datamodule.edits)
    assert edits == ReportEdits(editor, changes=2)
    assert "edits" not in compose(*overrides).data.datamodule


def test_the_objective_is_built_for_what_the_grounding_finds():
    config = compose("objective=gk_mvlp", "grounding_width=64")
    assert config.model.grounding.width == config.model.hard_negatives.entity_width == 64


@pytest.mark.parametrize(
    ("override", "kind", "prompts"),
    [
        ("regions=cells", Cells, 43),
        ("regions=learned", Learned, 43),
        ("regions=boxes", Boxes, 43),
        ("regions=boxes data=prepared data.root=x data.datamodule.source.boxes=y", Boxes, 207),
        ("data=prepared data.root=x", Cells, 207),
        ("data=mimic_cxr data.root=x", Cells, 207),
    ],
)
def test_every_choice_of_regions_and_knowledge_builds_a_grounding(override, kind, prompts):
    config = compose("objective=gk_mvlp", *override.split())
    grounding = instantiate(config.model.grounding)(16)
    assert type(grounding.regions) is kind
    assert len(grounding.prompts) == prompts
    assert instantiate(config.data.datamodule.knowledge).prompts == grounding.prompts


@pytest.mark.parametrize(
    "override",
    [
        *(
            f"{group}={choice}"
            for group in ("visual", "backbone", "model", "objective", "trainer", "lr_schedule")
            for choice in choices(group)
        ),
        *(f"experiment={choice} data.root=x" for choice in choices("experiment") if choice.startswith("r2gen")),
        *(f"experiment={choice}" for choice in choices("experiment") if not choice.startswith("r2gen")),
        *(f"{group}={choice}" for group in ("optimizer", "callbacks") for choice in choices(group)),
        *(f"objective={choice} alignment=triplet" for choice in choices("objective")),
        "data=phantom",
        "tokenizer=huggingface tokenizer.name_or_path=x",
        *(f"data={name} data.root=x" for name in ("annotations", "prepared", "iu_xray", "mimic_cxr")),
    ],
)
def test_every_choice_composes_and_resolves(override, monkeypatch):
    config = compose(*override.split())
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.runtime.output_dir = "outputs/x"
    config.hydra.job.num = 0
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)  # what ${hydra:...} reads
    keys = [key for key in config if key != "hydra"]
    with_values = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    assert with_values["model"]["visual"] == with_values["visual"]


@pytest.mark.parametrize(
    ("name", "override"),
    [
        *(("prepare", f"source={choice} output=x") for choice in choices("source")),
        *(("mine", f"data=phantom output=x.parquet embedder={choice}") for choice in choices("embedder")),
        *(("score", f"predictions=x.jsonl clinical={choice}") for choice in choices("clinical")),
        ("predict", "run=x images=y"),
        *((name, "run=x") for name in ("evaluate", "tasks", "page")),
        ("compare", "compare.jobs=2"),
    ],
)
def test_the_other_commands_compose_with_every_choice(name, override):
    config = compose(*override.split(), name=name)
    assert config.hydra.job.name == name


def test_the_released_recipe_is_the_released_one():
    config = compose("experiment=ithn_released")
    assert dict(config.weights) == {"report": 0.7, "alignment": 0.1, "separation": 0.2, "likelihood": 0.1}
    assert instantiate(config.schedule) == Exponential(rate=0.01, unit="epoch")
    assert (instantiate(config.hardening), instantiate(config.alignment)) == (Released(), ReleasedAlignment())


# From the scripts and defaults of the two repositories.
RELEASED_RECIPES = {
    "r2gen_iu_xray": (100, 9223, 5e-5, 1e-4, (0.9, 0.999), 1e-8, 50, 0.1, 60, 3),
    "r2gen_mimic_cxr": (30, 456789, 5e-5, 1e-4, (0.9, 0.999), 1e-8, 1, 0.8, 100, 10),
    "r2gencmn_iu_xray": (100, 7580, 1e-4, 5e-4, (0.9, 0.98), 1e-9, 10, 0.8, 60, 3),
    "r2gencmn_mimic_cxr": (30, 9153, 1e-4, 5e-4, (0.9, 0.98), 1e-9, 3, 0.8, 100, 10),
}


@pytest.mark.parametrize("name", RELEASED_RECIPES)
def test_the_recipes_of_the_released_models(name):
    config = compose(f"experiment={name}", "data.root=x", "visual.pretrained=false")
    epochs, seed, visual_lr, lr, betas, eps, step_size, gamma, max_length, min_count = RELEASED_RECIPES[name]
    trainer = config.trainer
    assert (trainer.max_epochs, config.seed, config.data.batch_size) == (epochs, seed, 16)
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (0.1, "value")
    assert (config.data.max_length, config.data.min_count, config.decoding.beam_size) == (max_length, min_count, 3)
    assert config.callbacks.early_stopping.patience == 50

    parameters = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))]
    model = instantiate(config.model, _partial_=True)(tokenizer=WordTokenizer(("<unk>", "heart")))
    assert type(model) is ReportGenerator
    groups = model.configure_optimizers()["optimizer"].param_groups
    assert {group["lr"] for group in groups} == {visual_lr, lr}
    assert {group["weight_decay"] for group in groups} == {5e-5}  # on vectors too
    assert all(group["amsgrad"] and tuple(group["betas"]) == betas and group["eps"] == eps for group in groups)
    assert type(model.configure_optimizers()["optimizer"]) is torch.optim.Adam
    schedule = instantiate(config.lr_schedule.schedule)(torch.optim.Adam(parameters))
    assert (schedule.step_size, schedule.gamma) == (step_size, gamma)
    assert type(model.decoder) is {"r2gen": R2Gen, "r2gencmn": R2GenCMN}[name.split("_")[0]]


def test_the_released_ithn_recipe_goes_on_top_of_another():
    config = compose("experiment=[r2gen_iu_xray,ithn_released]", "data.root=x")
    assert config.model._target_ == "hardneg_plugin.models.hard_negative_generator.HardNegativeReportGenerator"
    assert (config.model.report_feature, config.seed, config.weights.report) == ("decoder_states", 9223, 0.7)
    assert config.backbone._target_ == "hardneg_plugin.backbones.official.r2gen"


def test_released_decoders_are_those_of_the_released_options():
    for name, architecture in (("r2gen", R2Gen), ("r2gencmn", R2GenCMN)):
        decoder = instantiate(compose(f"backbone={name}").backbone)(vocab_size=7, patch_width=2048)
        released = load_official(name, None, {"vocab_size": 7})
        assert type(decoder) is architecture
        assert {n: p.shape for n, p in decoder.named_parameters()} == {
            n: p.shape for n, p in released.named_parameters()
        }
        assert repr(decoder) == repr(released)  # dropout among it


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
