"""`hardneg-train trainer=gpu` on the phantom: a whole run, and one that is killed in mid-epoch and resumed."""

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_parts.part import ROOT, Rows, Setting

LIMIT = 0.02
"""Relative difference of the losses of a run and of the same run killed and resumed, in bf16 on a GPU; 0 on a CPU."""
STEPS, KILLED_AT = 14, 11
SETTINGS = [
    "trainer.max_epochs=2",
    "data.batch_size=4",
    "data.datamodule.source.train=27",
    "data.datamodule.source.val=6",
    "data.datamodule.source.test=6",
    "callbacks.last.every_n_train_steps=2",
    "callbacks.progress_bar.refresh_rate=0",
    "trainer.log_every_n_steps=1",
    "decoding.max_length=12",
    "baselines=false",
    "negatives=queue",
    "negatives.size=16",
    "hardening=alternating",  # a state of its own, too
    "backbone=transformer",  # with dropout, whose draws must be the same
    "backbone.feedforward_width=32",
    "backbone.width=64",
]
SMALL = [
    "data.datamodule.source.size=32",
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "backbone.layers=1",
]


def run(setting: Setting, rows: Rows) -> None:
    """Whole runs and the one to be killed at once, the resumed one after them."""
    settings = [*SETTINGS, *(SMALL if setting.tiny else [])]
    settings += ["trainer=gpu"] if setting.is_cuda else ["trainer=cpu"]
    if not _can_be_imported("pycocoevalcap.bleu.bleu_scorer"):
        settings += ["metrics.caption=null", "monitor=val/report_loss"]
    else:
        settings.append("metrics.caption.meteor=false")
    if not _can_be_imported("tensorboard"):
        settings.append("~logger.tensorboard")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "fault_at_step.py").write_text(_FAULT)
        whole, broken = folder / "whole", folder / "broken"
        end = f"+callbacks.fault={{_target_: fault_at_step.Fault, step: {KILLED_AT}}}"
        runs = {
            "whole": _Run([*settings, f"hydra.run.dir={whole}"], folder, setting),
            "killed": _Run([*settings, f"hydra.run.dir={broken}", end], folder, setting),
        }
        if setting.is_cuda:
            runs["again"] = _Run([*settings, f"hydra.run.dir={folder / 'again'}"], folder, setting)
        with rows.row("trainer=gpu" if setting.is_cuda else "trainer=cpu") as row:
            row |= runs["whole"].end(0)
            metrics = json.loads((whole / "metrics.json").read_text())
            row["steps"], row["test_report_loss"] = metrics["training"]["steps"], metrics["test"]["report_loss"]
            row["train_seconds"] = metrics["training"]["seconds"]
            row["ok"] = row["steps"] == STEPS
        with rows.row("killed") as row:
            row |= runs["killed"].end(-signal.SIGKILL)
            left = torch.load(broken / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")
            row["steps"], row["ok"] = left["global_step"], left["global_step"] == KILLED_AT - KILLED_AT % 2
        if setting.is_cuda:  # kernels are not deterministic: how far are two runs apart that nothing has stopped?
            with rows.row("a second time") as row:
                row |= runs["again"].end(0)
                row |= _apart(whole, folder / "again")
                row["limit"] = LIMIT
                row["ok"] = row["steps"] == STEPS and row["loss_relative"] <= LIMIT
        with rows.row("resumed") as row:
            row |= _Run([f"resume={broken}", "trust=true", "~callbacks.fault"], folder, setting).end(0)
            row |= _apart(whole, broken)
            row["limit"] = LIMIT if setting.is_cuda else 0.0
            row["ok"] = row["steps"] == STEPS and row["loss_relative"] <= row["limit"]


def _apart(one: Path, other: Path) -> dict[str, Any]:
    """How far the weights and the test losses of two runs are apart."""
    first, second = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True, map_location="cpu") for run in (one, other)
    )
    weights, others = first["state_dict"], second["state_dict"]
    norm = sum(weights[name].float().square().sum().item() for name in weights) ** 0.5
    away = sum((weights[name].float() - others[name].float()).square().sum().item() for name in weights) ** 0.5
    losses = [json.loads((run / "metrics.json").read_text())["test"]["report_loss"] for run in (one, other)]
    return {
        "steps": second["global_step"],
        "weights_equal": all(torch.equal(weights[name], others[name]) for name in weights),
        "weights_relative": away / norm,
        "test_report_loss": losses[1],
        "loss_relative": abs(losses[0] - losses[1]) / losses[0],
    }


def _can_be_imported(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


_FAULT = """
import os, signal
import pytorch_lightning as pl

class Fault(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
"""


class _Run:
    """hardneg-train in a process: a new one as from a shell, or at small sizes a fork of this one, which has imported all.

    Args:
        arguments: of the command.
        folder: to run in, on the path of its imports.
        setting: says which.
    """

    def __init__(self, arguments: list[str], folder: Path, setting: Setting) -> None:
        self.start, self.log = time.monotonic(), folder / f"{time.monotonic_ns()}.log"
        self.setting = setting
        if setting.tiny:
            self.process: Any = multiprocessing.get_context("fork").Process(
                target=_forked, args=(arguments, folder, self.log)
            )
            self.process.start()
            return
        path = os.pathsep.join([str(ROOT / "src"), str(folder), os.environ.get("PYTHONPATH", "")])
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hardneg_plugin.apps.train", *arguments],
                cwd=folder,
                env={**os.environ, **threads, "PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self, expected: int) -> dict[str, Any]:
        """Wait for it.

        Raises:
            RuntimeError: it ends otherwise than expected, or not in time.
        """
        left = max(1.0, self.setting.left())
        if self.setting.tiny:
            self.process.join(left)
            code = self.process.exitcode
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(left)
            code = self.process.poll()
        output = self.log.read_text(errors="replace")
        print(output)
        if code != expected:
            raise RuntimeError(f"ended with {code}, not {expected}: {' / '.join(output.strip().splitlines()[-6:])}")
        return {"seconds": round(time.monotonic() - self.start, 1)}


def _forked(arguments: list[str], folder: Path, log: Path) -> None:
    from hardneg_plugin.apps.train import main

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ["hardneg-train", *arguments]
    main()
