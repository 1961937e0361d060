"""Which settings of a training are refused before it begins."""

import hydra
import pytest
from hydra.utils import instantiate

from hardneg_plugin.apps.shared.train_settings import check_settings
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError


def composed(*overrides):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


@pytest.mark.parametrize("monitor", ["val/report_loss", "val/cut/CIDEr", "val/R@5", "val/mine", "train/loss"])
def test_scores_that_may_be_monitored(monitor):
    check_settings(composed(f"monitor={monitor}"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["monitor=val/BLEU4"], "monitor: there is no score val/BLEU4; did you mean val/BLEU-4?"),
        (["monitor=BLEU-4"], "did you mean val/BLEU-4?"),
        (["monitor=val/report_los"], "did you mean val/report_loss?"),
        (["monitor=val/findings_f1"], "did you mean val/findings_F1?"),
        (["metrics.caption=null"], "metrics.caption is null, but monitor is val/BLEU-4: choose by another score"),
        (["metrics.caption=null", "monitor=val/cut/CIDEr"], "monitor is val/cut/CIDEr"),
        (["experiment=ablations_ithn"], "hardneg-compare +experiment="),
        (["trainer.max_epochs=-1"], "give training no end"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_settings_that_contradict_one_another(overrides, told):
    with pytest.raises(UserError) as refused:
        check_settings(composed(*overrides))
    assert told in str(refused.value)


@pytest.mark.parametrize(("monitor", "mode"), [("val/CIDEr", "max"), ("val/report_loss", "min")])
def test_checkpoint_and_early_stopping_follow_the_monitor(monitor, mode, tmp_path):
    config = composed("callbacks=released", f"monitor={monitor}", f"callbacks.checkpoint.dirpath={tmp_path}")
    for callback in (instantiate(config.callbacks[name]) for name in ("checkpoint", "early_stopping")):
        assert (callback.monitor, callback.mode) == (monitor, mode)
