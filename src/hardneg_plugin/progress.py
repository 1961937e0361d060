"""How far long work is: bars on a terminal; elsewhere, as in a log, a plain line a minute."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol, TypeVar, runtime_checkable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hardneg_plugin.plain_console import PlainConsole
from hardneg_plugin.terminal import say

T = TypeVar("T")

LINE_EVERY = 60.0
"""Seconds between two lines where the output is no terminal."""
DRAWN_EVERY = 0.1
"""Seconds between two drawings of a bar."""


def has_bars() -> bool:
    """Whether the output is a terminal that can draw bars."""
    return sys.stdout.isatty() and not PlainConsole().is_dumb_terminal


class Bars(Progress):
    """Bars at the foot of a terminal, which disappear at the end. What is printed, logged or warned meanwhile goes above them.

    Each is drawn when `draw` is called: a thread that draws could hold a lock while a loader forks its workers.
    """

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=PlainConsole(),
            transient=True,
            auto_refresh=False,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._drawn = 0.0
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []

    def start(self) -> None:
        """Begin to show them."""
        before = {id(sys.stdout): "stdout", id(sys.stderr): "stderr"}
        super().start()
        for handler in logging.getLogger().handlers:  # which keep the stream that they began with
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in before:
                self._moved.append((handler, handler.setStream(getattr(sys, before[id(handler.stream)]))))

    def stop(self) -> None:
        """Remove them."""
        super().stop()
        for handler, stream in self._moved:
            if stream is not None:
                handler.setStream(stream)
        self._moved.clear()

    def draw(self, *, now: bool = False) -> None:
        """Draw them, unless they have just been drawn.

        Args:
            now: draw in any case.
        """
        if now or time.monotonic() - self._drawn >= DRAWN_EVERY:
            self._drawn = time.monotonic()
            self.refresh()


class Work:
    """How far one piece of work is, as a context manager.

    Args:
        name: in front of the bar or line.
        total: steps of all the work; None: unknown.

    >>> with Work("comparing reports", total=2) as work:  # shorter than a minute: nothing is printed outside a terminal
    ...     work.done(2)
    """

    def __init__(self, name: str, total: int | None = None) -> None:
        self.name, self.total = name, total
        self._bars = Bars() if has_bars() else None
        self._started = self._told = time.monotonic()

    def __enter__(self) -> "Work":
        if self._bars is not None:
            self._bars.start()
            self._bars.add_task(self.name, total=self.total, told="")
            self._bars.draw(now=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def done(self, steps: int) -> None:
        """Show that so many steps are done, from the beginning."""
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], completed=steps)
            self._bars.draw()
        elif time.monotonic() - self._told >= LINE_EVERY:
            self._told = time.monotonic()
            of = "" if self.total is None else f" of {self.total:,}"
            say(f"{self.name}: {steps:,}{of}, {in_minutes(self._told - self._started)}", flush=True)


def progress(steps: Iterable[T], name: str) -> Iterator[T]:
    """Iterate, and show how far it is.

    Args:
        steps: what to iterate over.
        name: in front of the bar or line.

    >>> list(progress([1, 2], "comparing reports"))
    [1, 2]
    """
    with Work(name, len(steps) if isinstance(steps, Sized) else None) as work:
        for number, step in enumerate(steps, start=1):
            yield step
            work.done(number)


@runtime_checkable
class Tracking(Protocol):
    """A progress bar that shows further work below its own."""

    def track(self, steps: Sequence[T], name: str) -> Iterator[T]:
        """Iterate, and show how far it is, as `progress`."""


def in_minutes(seconds: float) -> str:
    """A duration as minutes and seconds, or with hours.

    >>> in_minutes(83), in_minutes(3683)
    ('1:23', '1:01:23')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
