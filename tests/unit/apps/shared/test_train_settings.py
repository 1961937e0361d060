"""Which settings of a training are refused before it begins."""

import hydra
import pytest

from hardneg_plugin.apps.shared.train_settings import check_monitor_of_data, check_settings
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CAPTION_SCORES
from hardneg_plugin.metrics.score_names import EVERY, OF_CAPTIONS, OF_LIKELIHOOD
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.places import build_in


def composed(*overrides):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["monitor=val/report_loss"],
        ["monitor=val/R@5"],
        ["monitor=val/unique_share"],
        ["monitor=val/findings_attributes_F1"],
        ["monitor=train/loss"],
        ["monitor=val/likelihood_R@1", "metrics.rank_by_likelihood=[val,test]"],
        ["monitor=val/BLEU-4", "model=host"],
        ["model=pretrain"],
        ["monitor=val/mine", "+callbacks.mine={_target_: theirs.LogMine}"],  # which may log it
        ["monitor=val/mine", "model._target_=theirs.Model"],
    ],
    ids=" ".join,
)
def test_scores_that_may_be_monitored(overrides):
    check_settings(composed(*overrides))


def test_every_score_of_a_validation_is_known_by_name():
    assert frozenset(CAPTION_SCORES) == OF_CAPTIONS
    assert {name for name in EVERY if name.startswith("likelihood")} == OF_LIKELIHOOD


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["monitor=val/BLEU4"], "monitor: there is no score val/BLEU4; did you mean val/BLEU-4?"),
        (["monitor=BLEU-4"], "did you mean val/BLEU-4?"),
        (["monitor=val/report_los"], "did you mean val/report_loss?"),
        (["monitor=val/findings_f1"], "did you mean val/findings_F1?"),
        (
            ["metrics.caption=null", "monitor=val/BLEU-4"],
            "metrics.caption is null, but monitor is val/BLEU-4: choose by another score",
        ),
        (["metrics.caption=null", "monitor=val/cut/CIDEr"], "monitor is val/cut/CIDEr"),
        (["monitor=val/cut/CIDEr"], "is a score of the test split only; did you mean val/CIDEr?"),
        (
            ["monitor=val/mine"],
            "monitor: there is no score val/mine; there are, among others: val/findings_F1, val/BLEU-4",
        ),
        (["monitor=accuracy"], "monitor: there is no score accuracy"),
        (["monitor=R@5"], "did you mean val/R@5?"),
        (["monitor=val/findings"], "did you mean val/findings_F1?"),
        (["monitor=val/BLEU4", "+callbacks.mine={_target_: theirs.LogMine}"], "did you mean val/BLEU-4?"),
        (["monitor=val/R@5", "model=host"], "model=host embeds no reports, but monitor is val/R@5"),
        (["monitor=val/BLEU-4", "model=pretrain"], "model=pretrain writes no reports, but monitor is val/BLEU-4"),
        (["monitor=val/likelihood_R@1"], "metrics.rank_by_likelihood does not name val"),
        (
            ["data=prepared", "data.root=x", "data.findings=null", "monitor=val/findings_F1"],
            "data.findings is null, but monitor is val/findings_F1: choose by another score, such as monitor=val/specificity.",
        ),
        (["experiment=ablations_ithn"], "hardneg-compare +experiment="),
        (
            ["callbacks=released", "trainer.limit_val_batches=0"],
            "callbacks.early_stopping stops by a score of validation, but trainer.limit_val_batches=0 leaves none",
        ),
        (["~trainer"], "trainer: expected one of cpu, ddp, gpu, smoke, but got None."),
        (["~lr_schedule"], "lr_schedule: expected one of constant, step, warmup_cosine, but got None."),
        (["callbacks.checkpoint=null"], "but got None; ~callbacks.checkpoint leaves it out."),
        (
            ["logger.csv=off"],
            "logger.csv: expected settings with a _target_, but got 'off'; ~logger.csv leaves it out.",
        ),
        (["trainer.max_epochs=-1"], "give training no end"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_settings_that_contradict_one_another(overrides, told):
    with pytest.raises(UserError) as refused:
        check_settings(composed(*overrides))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("monitor", "reads_findings", "is_refused"),
    [
        ("val/findings_attributes_F1", False, True),
        ("val/informativeness", False, True),
        ("val/findings_attributes_F1", True, False),
        ("val/report_loss", False, False),
    ],
)
def test_a_score_of_findings_needs_findings_to_be_read(monitor, reads_findings, is_refused):
    if not is_refused:
        check_monitor_of_data(monitor, reads_findings=reads_findings)
        return
    with pytest.raises(UserError, match=f"monitor: {monitor} is a score of findings.*monitor=val/specificity"):
        check_monitor_of_data(monitor, reads_findings=reads_findings)


@pytest.mark.parametrize(("monitor", "mode"), [("val/CIDEr", "max"), ("val/report_loss", "min")])
def test_checkpoint_and_early_stopping_follow_the_monitor(monitor, mode, tmp_path):
    config = composed("callbacks=released", f"monitor={monitor}")
    for name in ("checkpoint", "early_stopping"):
        callback = build_in(RunFolder(tmp_path), config, f"callbacks.{name}")
        assert (callback.monitor, callback.mode) == (monitor, mode)
