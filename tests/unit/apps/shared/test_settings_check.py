"""Settings of a wrong type or out of their range, as they are refused before anything is imported or read."""

from contextlib import contextmanager

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hardneg_plugin.apps.shared.limits import LIMITS, limit_of
from hardneg_plugin.apps.shared.settings_check import check_types, settings_of
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError

NEEDED = {"prepare": ["source=listed"], "mine": ["data=prepared"]}


@contextmanager
def composed(command, *overrides):
    """The config as a running command has it, where ${hydra:...} resolves."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(command, [*NEEDED.get(command, ()), *overrides], return_hydra_config=True)
    config.hydra.runtime.output_dir = "outputs/run"
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = config
    try:
        yield OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    finally:
        HydraConfig.instance().cfg = before


WRONG = [
    # types, with the nearest right value
    ("train", "trainer.max_epochs=three", "trainer.max_epochs: expected an integer >= -1, but got 'three'; did you mean 3?"),
    ("train", "trainer.max_epochs=2.5", "trainer.max_epochs: expected an integer >= -1, but got 2.5; did you mean 2?"),
    ("train", "trainer.max_epochs=1e2", "trainer.max_epochs: expected an integer >= -1, but got 100.0; did you mean 100?"),
    ("train", "trainer.max_epochs=true", "trainer.max_epochs: expected an integer >= -1, but got True."),
    ("train", "trainer.max_epochs=[3]", "trainer.max_epochs: expected an integer >= -1, but got [3]."),
    ("train", "seed=abc", "seed: expected an integer from 0 to 4294967295, but got 'abc'."),
    ("train", "seed=null", "seed: expected an integer from 0 to 4294967295, but got None."),
    ("train", "optimizer.lr=1e-3x", "optimizer.lr: expected a number > 0, but got '1e-3x'; did you mean 1e-3?"),
    ("train", "optimizer.lr='0,001'", "optimizer.lr: expected a number > 0, but got '0,001'; did you mean 0.001?"),
    ("train", "optimizer.fused=yes", "optimizer.fused: expected true or false or null, but got 'yes'; did you mean true?"),
    ("train", "baselines=no", "baselines: expected true or false, but got 'no'; did you mean false?"),
    ("train", "baselines=1", "baselines: expected true or false, but got 1; did you mean true?"),
    ("train", "model.compile=on", "model.compile: expected true or false, but got 'on'; did you mean true?"),
    ("train", "weights.alignment=half", "weights.alignment: expected a number >= 0, but got 'half'."),
    ("train", "data.batch_size=16x", "data.batch_size: expected a positive integer, but got '16x'; did you mean 16?"),
    ("train", "data.cleaning=iuxray", "data.cleaning: expected iu_xray or mimic_cxr, but got 'iuxray'; did you mean iu_xray?"),
    ("train", "data.regime=klinik", "data.regime: expected uniform or clinic, but got 'klinik'; did you mean clinic?"),
    ("train", "trainer.precision=bf16_mixed", "but got 'bf16_mixed'; did you mean bf16-mixed?"),
    ("train", "schedule.unit=epochs", "schedule.unit: expected epoch, step or fraction, but got 'epochs'; did you mean epoch?"),
    ("train", "model.report_feature=text", "but got 'text'; did you mean text_only?"),
    ("train", "visual.options.channels=32", "visual.options.channels: expected four positive integers, but got 32."),
    ("train", "visual.options=3", "visual.options: expected a mapping, but got 3."),
    ("train", "metrics.rank_by_likelihood=val", "expected a list of val or test, but got 'val'; did you mean [val]?"),
    ("train", "metrics.rank_by_likelihood=[train]", "metrics.rank_by_likelihood: expected a list of val or test, but got"),
    ("train", "metrics.caption.meteor=maybe", "metrics.caption.meteor: expected true or false, but got 'maybe'."),
    ("train", "decoding.beam_size=two", "decoding.beam_size: expected a positive integer, but got 'two'; did you mean 2?"),
    ("train", "callbacks.diagnosis.studies=few", "callbacks.diagnosis.studies: expected an integer >= 0, but got 'few'."),
    ("train", "+logger.csv.prefix=3", "logger.csv.prefix: expected text, but got 3; did you mean '3'?"),
    ("train", "trainer.accumulate_grad_batches=0.5", "trainer.accumulate_grad_batches: expected a positive integer, but got 0.5."),
    # ranges
    ("train", "seed=-1", "seed: expected an integer from 0 to 4294967295, but got -1."),
    ("train", "seed=4294967296", "seed: expected an integer from 0 to 4294967295, but got 4294967296."),
    ("train", "seed=1.5", "seed: expected an integer from 0 to 4294967295, but got 1.5; did you mean 2?"),
    ("train", "data.datamodule.seed=4294967296", "data.datamodule.seed: expected an integer from 0 to 4294967295"),
    ("evaluate", "seed=4294967296", "seed: expected an integer from 0 to 4294967295, but got 4294967296."),
    ("tasks", "seed=4294967296", "seed: expected an integer from 0 to 4294967295, but got 4294967296."),
    ("page", "seed=4294967296", "seed: expected an integer from 0 to 4294967295, but got 4294967296."),
    ("prepare", "seed=4294967296", "seed: expected an integer from 0 to 4294967295, but got 4294967296."),
    ("compare", "compare.seeds=[4294967296]", "compare.seeds: expected a list of integers from 0 to 4294967295, but got"),
    ("train", "optimizer.lr=0", "optimizer.lr: expected a number > 0, but got 0."),
    ("train", "optimizer.lr=-0.1", "optimizer.lr: expected a number > 0, but got -0.1."),
    ("train", "trainer.max_epochs=-2", "trainer.max_epochs: expected an integer >= -1, but got -2."),
    ("train", "backbone.dropout=1.0", "backbone.dropout: expected a share in [0, 1), but got 1.0."),
    ("train", "weights.report=-1", "weights.report: expected a number >= 0, but got -1."),
    ("train", "lr_schedule.schedule.warmup=5", "lr_schedule.schedule.warmup: expected a share in [0, 1), but got 5."),
    ("train", "trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: expected a number >= 0 or null, but got -1."),
    ("train", "data.max_length=0", "data.max_length: expected a positive integer, but got 0."),
    ("train", "data.datamodule.num_workers=-1", "data.datamodule.num_workers: expected an integer >= 0, but got -1."),
    ("train", "weights.alignment=inf", "weights.alignment: expected a finite number, but got inf."),
    ("train", "weights.report=nan", "weights.report: expected a number >= 0, but got nan."),
    ("train", "decoding.length_penalty=nan", "decoding.length_penalty: expected a finite number, but got nan."),
    ("compare", "compare.zoom=0", "compare.zoom: expected a positive integer or null, but got 0."),
    # arguments that a constructor does not take
    ("train", "+hardening.speed=3", "hardening.speed: Arc takes no argument speed."),
    ("train", "+hardening.margins=3", "hardening.margins: Arc takes no argument margins; did you mean margin?"),
    ("train", "+trainer.max_epoch=3", "trainer.max_epoch: Trainer takes no argument max_epoch; did you mean max_epochs?"),
    ("train", "data.datamodule.batch_size=-1", "data.datamodule.batch_size: expected a positive integer, but got -1."),
    ("train", "callbacks.step_seeding.seed=-1", "callbacks.step_seeding.seed: expected an integer from 0 to 4294967295"),
    ("train", "hardening.margin=-1", "hardening.margin: expected a cosine difference in [0, 2), but got -1."),
    ("train", "alignment.temperature=7", "alignment.temperature: expected a temperature in [0.01, 1], but got 7."),
    # what builds them
    ("train", "hardening._target_=hardneg_plugin.functional.hardening.Ark",
     "did you mean hardneg_plugin.functional.hardening.Arc?"),
    ("train", "optimizer._target_=AdamW", "optimizer._target_: expected the full name of a class or function, but there is no"),
    ("train", "model._target_=nowhere.Mine", "model._target_: expected the full name of a class or function, but there is no"),
    ("train", "hardening._target_=null", "hardening._target_: expected the full name of a class or function, but there is no None"),
    # other commands
    ("evaluate", "split=train", "split: expected val or test, but got 'train'."),
    ("evaluate", "decoding.beam_size=0", "decoding.beam_size: expected a positive integer or null, but got 0."),
    ("evaluate", "trust=no", "trust: expected true or false, but got 'no'; did you mean false?"),
    ("score", "findings=englisch", "findings: expected one of phantom, english or null, but got 'englisch'; did you mean english?"),
    ("tasks", "vqa.epochs=0", "vqa.epochs: expected a positive integer, but got 0."),
    ("tasks", "shares=[0.1,2]", "shares: expected shares in (0, 1], but got [0.1, 2]."),
    ("page", "limit=many", "limit: expected a positive integer, but got 'many'."),
    ("predict", "batch_size=0", "batch_size: expected a positive integer, but got 0."),
    ("predict", "attention=often", "attention: expected true or false, but got 'often'."),
    ("prepare", "section=finding", "both, findings_impression or report, but got 'finding'; did you mean findings?"),
    ("prepare", "size=256px", "size: expected a positive integer, but got '256px'; did you mean 256?"),
    ("prepare", "splits.val=10", "splits.val: expected a share in [0, 1], but got 10."),
    ("mine", "labels=excluded", "labels: expected exclude or ignore, but got 'excluded'; did you mean exclude?"),
    ("mine", "k=0", "k: expected a positive integer, but got 0."),
    ("compare", "compare.jobs=two", "compare.jobs: expected a positive integer, but got 'two'; did you mean 2?"),
    ("compare", "compare.seeds=3", "compare.seeds: expected a list of integers from 0 to 4294967295, but got 3; did you mean [3]?"),
    ("compare", "compare.variants=host", "expected a list of texts, but got 'host'; did you mean [host]?"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "override", "told"), WRONG, ids=lambda value: value.split(":")[0])
def test_a_wrong_setting_is_told_with_the_nearest_right_one(command, override, told):
    with composed(command, override) as config, pytest.raises(UserError) as refused:
        check_types(config, command)
    message = str(refused.value)
    assert told in message
    assert "\n" not in message
    key = override.lstrip("+").partition("=")[0]
    assert message.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("train", ["optimizer.lr=1", "trainer.max_epochs=0", "optimizer.weight_decay=0", "trainer.devices=auto"]),
        ("train", ["trainer.devices=[0,1]", "trainer=ddp", "trainer.limit_train_batches=0.5", "trainer.strategy=fsdp"]),
        ("train", ["optimizer=adam", "optimizer.betas=[0.9,0.95]", "lr_schedule=step", "callbacks=released"]),
        ("train", ["logger={}", "metrics.caption=null", "objective.width=null", "visual.options={}"]),
        (
            "train",
            ["+callbacks.mine={_target_: unittest.mock.Mock, anything: [1, x]}", "model._target_=unittest.mock.Mock"],
        ),
        ("train", ["+visual.options.in_chans=3", "backbone.max_patches=null", "decoding.max_length=12"]),
        ("page", ["run=[a,b]", "data=prepared"]),
        ("page", ["run={a: outputs/a, b: outputs/b}"]),
        ("tasks", ["split=[val,test]", "tasks=[vqa]", "shares=[1]"]),
        ("predict", ["images=[[a.png,b.png]]", "columns={id: uid}"]),
        ("mine", ["embedder=run", "embedder.run=outputs/a", "ceiling=1"]),
    ],
)
def test_right_settings_pass(command, overrides):
    with composed(command, *overrides) as config:
        check_types(config, command)


OF_OTHERS = {"source": "prepare", "embedder": "mine", "clinical": "score"}
"""Groups of other commands than hardneg-train."""
CHOICES = [
    (OF_OTHERS.get(path.parent.name, "train"), [f"{path.parent.name}={path.stem}"])
    for path in sorted(conf_dir().glob("*/*.yaml"))
    if path.parent.name not in ("parts", "regions")
]
CHOICES += [
    ("train", ["objective=gk_mvlp", f"regions={path.stem}"]) for path in sorted(conf_dir().glob("regions/*.yaml"))
]
CHOICES += [*((command, []) for command in LIMITS), ("evaluate", ["data=prepared"])]


@pytest.mark.parametrize(
    ("command", "overrides"), CHOICES, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_every_config_of_the_project_passes_and_each_of_its_leaves_is_known(command, overrides):
    with composed(command, *overrides) as config:
        check_types(config, command)
        unknown = [
            setting.key
            for setting in settings_of(config)
            if setting.kinds is None
            and limit_of(command, setting.key) is None
            and not isinstance(setting.value, dict)
            and not setting.key.startswith(("compare.definitions.", "compare.by_data."))
        ]
    assert not unknown, f"add these to apps/shared/limits.py: {unknown}"


def test_choices_of_limits_are_those_of_the_code():
    from hardneg_plugin.apps.score import READERS
    from hardneg_plugin.data.cleaning import CLEANINGS
    from hardneg_plugin.data.phantom.regimes import REGIMES
    from hardneg_plugin.data.prepare.build import SECTIONS

    def choices(command, key):
        return {kind.choice for kind in limit_of(command, key).kinds if kind.name == "choice"}

    assert choices("score", "findings") == set(READERS)
    assert choices("score", "texts") == {"as_given", "seen"}
    assert choices("train", "data.cleaning") == set(CLEANINGS)
    assert choices("train", "data.regime") == set(REGIMES)
    assert choices("prepare", "section") == set(SECTIONS)
