"""For tests: studies that differ between nodes, and callbacks, what can happen to one process in the middle of a training."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytorch_lightning as pl

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.errors import UserError


class Fault(pl.Callback):
    """At the start of an optimizer step, on one rank: a `user` error, a `bug`, `kill -9`, or Ctrl-C at the launcher.

    With `not_finite` the images of that batch and of all after it are NaN.
    """

    def __init__(self, kind, rank, step):
        self.kind, self.rank, self.step = kind, rank, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.kind == "not_finite" and trainer.global_rank == self.rank and trainer.global_step >= self.step:
            batch["images"] = batch["images"] * float("nan")
        if (trainer.global_rank, trainer.global_step) != (self.rank, self.step):
            return
        if self.kind == "user":
            raise UserError("data.root: study 7 of rank 1 is broken.")
        if self.kind == "bug":
            raise ZeroDivisionError("a defect")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "busy":  # gives signs of life
            time.sleep(60)
        if self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "interrupt":
            os.kill(multiprocessing.parent_process().pid, signal.SIGINT)


class Removal(pl.Callback):
    """At the start of the second epoch: a file or folder is gone, or a file is cut short."""

    def __init__(self, path, cut=False):
        self.path, self.cut = Path(path), cut

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch != 1:
            return
        if self.cut:
            os.truncate(self.path, 200)
        else:
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()


class WorkerKill(pl.Callback):
    """At the start of the second step: the worker processes of the loader are killed."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)


class OtherStudiesOnNode1(PhantomStudies):
    """Studies of which node 1 has two less in validation, and two training reports the other way round."""

    def __init__(self, train=24, val=6, test=6, size=32, seed=0, regime="uniform"):
        is_other = os.environ.get("GROUP_RANK") == "1"
        super().__init__(train, val - 2 * is_other, test, size, seed, regime=regime)
        if is_other:
            reports = self.split("train").reports
            reports[0], reports[1] = reports[1], reports[0]
