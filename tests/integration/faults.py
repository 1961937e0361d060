"""A callback for tests: what can happen to one process in the middle of a training."""

import multiprocessing
import os
import signal

import pytorch_lightning as pl

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
        if self.kind == "interrupt":
            os.kill(multiprocessing.parent_process().pid, signal.SIGINT)
