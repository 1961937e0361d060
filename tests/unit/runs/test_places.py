"""Where a run writes follows from its folder: no setting says otherwise, least of all one of someone else."""

import inspect

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.places import (
    HARMLESS,
    PLACES,
    build_all_in,
    build_in,
    check_no_places,
    check_writes_inside,
    places_of,
)

BEST = "hardneg_plugin.training.best_checkpoint.BestCheckpoint"
LAST = "hardneg_plugin.training.callbacks.LastCheckpoint"
MODEL = "pytorch_lightning.callbacks.ModelCheckpoint"
CSV = "pytorch_lightning.loggers.CSVLogger"
BOARD = "hardneg_plugin.training.board_logger.BoardLogger"
FLOW = "pytorch_lightning.loggers.MLFlowLogger"
WANDB = "pytorch_lightning.loggers.WandbLogger"
TRAINER = "pytorch_lightning.Trainer"


@pytest.mark.parametrize("target", PLACES)
def test_places_are_arguments_of_what_they_are_for(target):
    """A name that Lightning no longer has would be a place that nobody sets."""
    known = inspect.signature(get_object(target).__init__).parameters
    if target == BEST:
        known = inspect.signature(get_object(MODEL).__init__).parameters
    assert set(PLACES[target]) <= set(known)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        assert HARMLESS[target] <= set(known)
    assert not HARMLESS[target] & set(PLACES[target])
    paths = {name for name in known if any(part in name for part in ("dir", "path", "uri", "location"))}
    assert not HARMLESS[target] & paths


def test_a_run_is_built_into_its_folder_whatever_its_name(tmp_path):
    run = RunFolder(tmp_path / "${odd} $HOME 'name'")
    config = OmegaConf.create(
        {
            "callbacks": {"last": {"_target_": LAST}, "best": {"_target_": BEST, "monitor": "val/loss"}},
            "logger": {"csv": {"_target_": CSV, "version": None}, "board": {"_target_": BOARD}},
            "trainer": {"_target_": TRAINER, "accelerator": "cpu", "logger": False, "enable_checkpointing": False},
        }
    )
    last, best = build_all_in(run, config, "callbacks")
    csv, board = build_all_in(run, config, "logger")
    assert (last.path, best.dirpath, best.filename) == (run.last, str(run.best.parent), "best")
    assert csv.log_dir == str(run.path / "logs" / "csv" / "version_0")
    assert board.log_dir == str(run.path / "logs" / "tensorboard")
    assert build_in(run, config, "trainer").default_root_dir == str(run.path)
    assert build_all_in(run, config, "none") == []


@pytest.mark.parametrize(("target", "name"), [(target, name) for target in PLACES for name in PLACES[target]])
def test_a_place_is_no_setting_even_of_ones_own(target, name):
    with pytest.raises(UserError, match=rf"a\.0\.{name}: .*hydra\.run\.dir"):
        check_no_places({"a": [{"_target_": target, name: "x"}]})


OUTSIDE = [
    (MODEL, {"filename": "../x"}),
    (MODEL, {"filename": "a/b"}),
    (MODEL, {"filename": "a\\b"}),
    (MODEL, {"filename": "best\nssh-rsa AAAA"}),
    (MODEL, {"filename": "\x1b[2J"}),
    (MODEL, {"filename": ".."}),
    (MODEL, {"filename": "~root"}),
    (MODEL, {"filename": "s3://bucket"}),
    (MODEL, {"dirpath": "x"}),
    (MODEL, {"_args_": ["x"]}),
    (BEST, {"filename": "x"}),
    (BEST, {"train_time_interval": {"days": 1}}),
    (LAST, {"path": "x"}),
    (LAST, {"_args_": ["x"]}),
    (CSV, {"save_dir": "x"}),
    (CSV, {"name": "x"}),
    (CSV, {"version": "../../x"}),
    (CSV, {"version": "$HOME"}),
    (BOARD, {"sub_dir": "../x"}),
    (BOARD, {"log_dir": "x"}),
    (BOARD, {"filename_suffix": "/../x"}),
    (FLOW, {"tracking_uri": "http://elsewhere"}),
    (FLOW, {"artifact_location": "/x"}),
    (FLOW, {"run_id": "x"}),
    (WANDB, {"entity": "elsewhere"}),
    (WANDB, {"settings": {"base_url": "http://elsewhere"}}),
    (WANDB, {"log_model": "all"}),
    (WANDB, {"dir": "/x"}),
    (TRAINER, {"default_root_dir": "/x"}),
    (TRAINER, {"profiler": "simple"}),
    (TRAINER, {"logger": {"_target_": CSV}}),
    (TRAINER, {"callbacks": []}),
    (TRAINER, {"plugins": []}),
    (TRAINER, {"strategy": "../x"}),
]


@pytest.mark.parametrize(("target", "arguments"), OUTSIDE, ids=str)
def test_what_could_write_elsewhere_is_refused_wherever_it_stands(target, arguments):
    part = {"_target_": target, **arguments}
    for config in ({"callbacks": {"x": part}}, {"model": {"visual": {"options": [1, [part]]}}}, part):
        with pytest.raises(UserError, match=r"^resume=run: .*trust=true") as refused:
            check_writes_inside(OmegaConf.create(config), "resume=run")
        assert "\n" not in str(refused.value)


def test_what_people_set_is_taken():
    check_writes_inside(
        {
            "callbacks": {
                "best": {"_target_": BEST, "monitor": "val/BLEU-4", "mode": "max", "save_top_k": 2},
                "each": {"_target_": MODEL, "filename": "{epoch}-{step}", "save_top_k": -1, "dirpath": None},
                "last": {"_target_": LAST, "every_n_train_steps": 5},
                "mine": {"_target_": "mine.Callback", "path": "/x"},  # check_trusted refuses it
            },
            "logger": {
                "csv": {"_target_": CSV, "version": None},
                "wandb": {"_target_": WANDB, "project": "hardneg_plugin", "offline": False},
                "mlflow": {"_target_": FLOW, "experiment_name": "my runs", "tracking_uri": None},
            },
            "trainer": {"_target_": TRAINER, "precision": "bf16-mixed", "strategy": "ddp", "devices": [0, 1]},
        },
        "resume=run",
    )


def test_a_target_without_places_has_none(tmp_path):
    assert places_of("mine.Callback", RunFolder(tmp_path)) == {}
