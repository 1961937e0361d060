"""The progress of a training and of its scoring."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytorch_lightning as pl
from rich.progress import TaskID

from hardneg_plugin.progress import LINE_EVERY, Bars, has_bars, in_minutes
from hardneg_plugin.terminal import say

T = TypeVar("T")


class TrainingBar(pl.callbacks.ProgressBar):
    """A bar on a terminal, and a line with the scores after each epoch; elsewhere a line a minute within long epochs, too.

    Args:
        refresh_rate: batches between two updates; 0: nothing is shown.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self._on = refresh_rate > 0
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began = self._told = 0.0

    def disable(self) -> None:
        """Show nothing, as on ranks other than the first."""
        self._on = False

    def enable(self) -> None:
        """Show it again."""
        self._on = self.refresh_rate > 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin."""
        super().setup(trainer, pl_module, stage)
        if not trainer.is_global_zero:
            self.disable()
        self._told = time.monotonic()
        if self._on and has_bars() and self._bars is None:
            self._bars = Bars()
            self._bars.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar before the error is printed."""
        self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch."""
        self._began = time.monotonic()
        self._begin("train", _epoch_of(trainer), self.total_train_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch and the loss."""
        loss = {name: value for name, value in trainer.progress_bar_metrics.items() if name == "loss"}
        self._done("train", _epoch_of(trainer), batch_idx + 1, self.total_train_batches, told=_in_words(loss))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line with the scores."""
        if self._on:
            scores = _in_words(trainer.progress_bar_metrics)
            say(f"{_epoch_of(trainer)}, {in_minutes(time.monotonic() - self._began)}: {scores}", flush=True)
            self._told = time.monotonic()
        self._end("train")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show that validation begins."""
        if batch_idx == 0:
            total = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
            self._begin("val", _validation_of(trainer), _sum(total))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the batch."""
        self._done("val", _validation_of(trainer), batch_idx + 1, _sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove its bar."""
        self._end("val")

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show that the test begins."""
        if batch_idx == 0:
            self._begin("test", "scoring test", _sum(trainer.num_test_batches))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the batch."""
        self._done("test", "scoring test", batch_idx + 1, _sum(trainer.num_test_batches))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove its bar."""
        self._end("test")

    def track(self, steps: Sequence[T], name: str) -> Iterator[T]:
        """Iterate, and show how far it is.

        Args:
            steps: what to iterate over.
            name: in front of the bar or line.
        """
        self._begin(name, name, len(steps))
        for number, step in enumerate(steps, start=1):
            yield step
            self._done(name, name, number, len(steps))
        self._end(name)

    def _begin(self, task: str, name: str, total: float) -> None:
        if self._bars is not None:
            self._end(task)
            steps = None if math.isinf(total) else total
            self._tasks[task] = self._bars.add_task(name, total=steps, told="")
            self._bars.draw(now=True)

    def _done(self, task: str, name: str, batches: int, total: float, told: str = "") -> None:
        if not self._on or (batches % self.refresh_rate and batches != total):
            return
        if self._bars is not None and task in self._tasks:
            self._bars.update(self._tasks[task], completed=batches, told=told)
            self._bars.draw()
        elif self._bars is None and time.monotonic() - self._told >= LINE_EVERY:
            self._told = time.monotonic()
            of = "" if math.isinf(total) else f" of {total:.0f}"
            say(f"{name}: batch {batches}{of}{told and f', {told}'}", flush=True)

    def _end(self, task: str) -> None:
        if self._bars is not None and task in self._tasks:
            self._bars.remove_task(self._tasks.pop(task))

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}


def _epoch_of(trainer: pl.Trainer) -> str:
    last = trainer.max_epochs
    return f"epoch {trainer.current_epoch + 1}{f' of {last}' if last is not None and last > 0 else ''}"


def _validation_of(trainer: pl.Trainer) -> str:
    if trainer.sanity_checking:
        return "sanity check"
    return "validation" if trainer.state.fn == "fit" else "scoring val"


def _sum(batches: int | float | list[int | float]) -> float:
    """The batches of all loaders."""
    return sum(batches) if isinstance(batches, list) else batches


def _in_words(scores: Mapping[str, float]) -> str:
    """Scores as a text.

    >>> _in_words({"loss": 2.3456, "val/BLEU-4": 0.1234, "val/R@5": 0.5})
    'loss 2.346, val BLEU-4 0.123, R@5 0.500'
    """
    split, told = "", []
    for name, value in scores.items():
        before, _, score = name.rpartition("/")
        told.append(f"{before if before != split else ''} {score} {value:.3f}".strip())
        split = before
    return ", ".join(told)
