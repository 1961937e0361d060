"""The commands run in this process: a fresh one would spend ten seconds on imports each time."""

import json
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra

TINY_MODEL = [
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "backbone.width=32",
    "backbone.heads=2",
    "backbone.layers=1",
    "objective.width=16",
    "data.batch_size=8",
    "decoding.max_length=12",
    "metrics.caption.meteor=false",
    "baselines=false",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar.refresh_rate=0",
]
TINY = [
    *TINY_MODEL,
    "data.datamodule.source.train=24",
    "data.datamodule.source.val=6",
    "data.datamodule.source.test=6",
    "data.datamodule.source.size=32",
    "trainer.max_epochs=1",
]


@pytest.fixture
def cli(monkeypatch, capfd, tmp_path):
    """Call a command as from a shell in an empty folder; gives exit code, output and error output, of its processes too."""
    from hardneg_plugin.apps import compare, evaluate, export, mine, page, predict, prepare, score, tasks, train

    mains = {
        "hardneg-train": train.main,
        "hardneg-evaluate": evaluate.main,
        "hardneg-score": score.main,
        "hardneg-tasks": tasks.main,
        "hardneg-export": export.main,
        "hardneg-page": page.main,
        "hardneg-predict": predict.main,
        "hardneg-prepare": prepare.main,
        "hardneg-mine": mine.main,
        "hardneg-compare": compare.main,
    }
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        code = 0
        handlers = list(logging.getLogger().handlers)
        try:
            mains[command]()
        except SystemExit as stop:
            code = stop.code
        finally:  # those of the command write to where this test's output goes, which is closed after it
            logging.getLogger().handlers[:] = handlers
        printed = capfd.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return call


@pytest.fixture
def read_json():
    return lambda path: json.loads(path.read_text())


@pytest.fixture
def two_processes():
    """Settings under which a run takes two processes of this machine, without a GPU."""
    return ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


@pytest.fixture
def fault(monkeypatch):
    """The override that lets something happen to one process: kind, rank and step as in `faults.Fault`."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    return "+callbacks.fault={{_target_: faults.Fault, kind: {}, rank: {}, step: {}}}".format


@pytest.fixture
def tiny():
    """Settings under which a whole run takes seconds."""
    return list(TINY)


@pytest.fixture
def tiny_model():
    """The same without those of the phantom, for other data."""
    return list(TINY_MODEL)
