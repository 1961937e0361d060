"""What a comparison may be asked for, and what its variants are."""

import pytest
import torch
import torch.nn.functional as F
import yaml
from hydra.utils import instantiate

from hardneg_plugin.comparison.composing import compose_config, run_settings
from hardneg_plugin.comparison.settings import ComparisonSettings, overrides_of_variants, with_overrides_of_data
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.run_tasks import TASKS
from hardneg_plugin.metrics.score_names import TASK_NAMES
from hardneg_plugin.objectives import PairEmbeddings
from hardneg_plugin.objectives.schedule import TrainingProgress

VALUES = yaml.safe_load((conf_dir() / "compare.yaml").read_text())["compare"]
ABLATIONS = [
    yaml.safe_load((conf_dir() / "experiment" / f"ablations_{name}.yaml").read_text())["compare"]["definitions"]
    for name in ("ithn", "objectives")
]


@pytest.fixture
def compose(tmp_path):
    def settings(overrides):
        return run_settings(compose_config(overrides), 1, tmp_path)

    return settings


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("variants", "arc", r"compare\.variants: expected a list"),
        ("variants", [], r"compare\.variants: expected a list"),
        ("variants", ["arc", "arc"], r"without repetitions"),
        ("variants", ["arc", "mined"], r"compare\.baseline: expected one of .*\[arc,mined\], but got host"),
        ("seeds", [1, 1], r"compare\.seeds: .*without repetitions"),
        ("seeds", [1, -1], r"expected integers from 0 to 4294967295, but got -1"),
        ("seeds", [2**32], r"expected integers from 0 to 4294967295, but got 4294967296"),
        ("seeds", [True], r"compare\.seeds"),
        ("tasks", ["zeroshot"], r"compare\.tasks: expected some of retrieval, zero_shot, .* got \['zeroshot'\]"),
        ("tasks", "vqa", r"compare\.tasks"),
        ("jobs", 0, r"compare\.jobs: expected a positive integer, but got 0"),
        ("page", 1.5, r"compare\.page"),
        ("zoom", 0, r"compare\.zoom: expected a positive integer or null, but got 0"),
        ("resamples", 199, r"at least 200"),  # 10 comparisons at 0.05
        ("pairs", [["arc", "host"]], r"compare\.pairs: expected pairs of different names .* without the baseline"),
        ("pairs", [["arc", "arc"]], r"compare\.pairs"),
        ("pairs", [["arc", "mined"]], r"compare\.pairs"),
        ("pairs", ["arc"], r"compare\.pairs"),
        ("pairs", [["arc", "info_nce"], ["info_nce", "arc"]], r"compare\.pairs: expected each pair once"),
        ("partial", "yes", r"compare\.partial: expected true or false, but got 'yes'"),
        ("by_data", {"phantom": "data.regime=clinic"}, r"by_data\.phantom: expected a list of overrides"),
        ("measures", ["length"], r"higher is better"),
        ("measures", ["specifcity"], r"but got specifcity\. There are: BLEU-1, .*METEOR, .*specificity"),
        ("definitions", {"../x": []}, r"definitions\.\.\./x"),
        ("definitions", {"x": "hardening=arc"}, r"list of overrides"),
    ],
)
def test_what_is_not_expected_is_told(key, value, message):
    with pytest.raises(UserError, match=message):
        ComparisonSettings(**{**VALUES, key: value})


def test_no_smaller_number_of_resamples_could_find_a_difference():
    # the smallest p-value that 200 draws can give is 1/201; Holm multiplies it by the 10 comparisons
    assert 10 / 201 < 0.05 <= 10 / 200
    ComparisonSettings(**{**VALUES, "resamples": 200})


def test_overrides_for_all_runs_come_before_those_of_a_variant():
    settings = ComparisonSettings(**{**VALUES, "variants": ["host", "ascent"]})
    assert overrides_of_variants(settings, ["trainer.max_epochs=2", "hardening.margin=0.1"]) == {
        "host": ["trainer.max_epochs=2", "hardening.margin=0.1", "model=host"],
        "ascent": ["trainer.max_epochs=2", "hardening.margin=0.1", "model=hard_negatives", "hardening=ascent"],
    }


@pytest.mark.parametrize(
    ("data", "overrides", "expected"),
    [
        ("phantom", ["monitor=val/R@1"], ["data.regime=clinic", "monitor=val/R@1"]),
        ("phantom", ["data.regime=uniform", "model=host"], ["data.regime=uniform", "model=host"]),
        ("iu_xray", ["data=iu_xray"], ["data=iu_xray"]),
        (None, [], []),
    ],
)
def test_the_phantom_is_in_the_regime_of_a_clinic_unless_something_else_is_asked_for(data, overrides, expected):
    assert with_overrides_of_data(ComparisonSettings(**VALUES), data, overrides) == expected


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ("hardening=ascent", r"the variant info_nce sets hardening=none"),
        ("seed=3", r"Set compare\.seeds"),
        ("resume=x", r"resumes by itself"),
        ("trust=true", r"sets trust itself"),
        ("overwrite=true", r"sets overwrite itself"),
        ("hydra.run.dir=x", r"Set compare\.folder"),
        ("schedule=linear,cosine", r"expected one value"),
        ("hardening", r"expected an override"),
        ("--multirun", r"does not take this option"),
    ],
)
def test_overrides_that_would_contradict_the_comparison_are_refused(shared, message):
    with pytest.raises(UserError, match=message):
        overrides_of_variants(ComparisonSettings(**VALUES), [shared])


def test_a_variant_that_is_not_defined_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"asent is not defined; did you mean ascent\?"):
        overrides_of_variants(ComparisonSettings(**{**VALUES, "variants": ["host", "asent"]}), [])


def test_the_written_out_release_is_the_experiment_of_that_name(compose):
    # but for the choice of the checkpoint, which is that of the other variants
    released = ["experiment=ithn_released", "monitor=auto"]
    assert compose(VALUES["definitions"]["ithn_released"]) == compose(released)


@pytest.mark.slow
def test_all_definitions_compose_to_different_settings_even_with_an_experiment_that_chooses_the_host(compose):
    shared = ["experiment=r2gen_iu_xray", "data.root=x"]
    definitions = {**VALUES["definitions"], **ABLATIONS[0], **ABLATIONS[1]}
    assert len(definitions) == 11 + 7 + 8
    targets = {name: compose([*shared, *own]) for name, own in definitions.items()}
    assert {name for name, settings in targets.items() if "hard_negatives" not in settings["model"]} == {"host"}
    settings = [str(values["model"]) for values in targets.values()]
    assert len(set(settings)) == len(settings)


def test_info_nce_is_cross_entropy_over_the_batch_alone(compose):
    settings = compose([*VALUES["definitions"]["info_nce"], "objective.width=null"])
    objective = instantiate(settings["model"]["hard_negatives"])()
    generator = torch.Generator().manual_seed(0)
    images, reports = (torch.randn(6, 8, generator=generator, requires_grad=True) for _ in range(2))
    pairs = PairEmbeddings(images=images, reports=reports, study_ids=list("abcdef"))
    result = objective(pairs, TrainingProgress(step=90, epoch=0, fraction=0.9))
    logits = F.normalize(images, dim=-1) @ F.normalize(reports, dim=-1).T / 0.07
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(result.alignment_loss, expected)
    assert result.separation_loss == 0
    for got, wanted in zip(
        torch.autograd.grad(result.alignment_loss, (images, reports)),
        torch.autograd.grad(expected, (images, reports)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_tasks_are_those_of_the_command():
    assert tuple(TASKS) == TASK_NAMES
    measures = ["zero_shot_AUROC", "probe_10%_AUROC", "IoU", "vqa_side", "pair_peers_r2i_R@5", "pair_zero_shot_AUROC"]
    ComparisonSettings(**{**VALUES, "tasks": list(TASKS), "measures": measures})
