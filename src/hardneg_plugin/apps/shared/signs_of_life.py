"""Signs of life of the ranks of a job: where one gives none, as a stopped process does, the others end and say so."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

BEAT = 5.0
"""Seconds between two signs of life, at most."""
DONE = "done"
"""The last sign of a rank that has done its job."""
_JOBS = itertools.count()


class Silence:
    """Which ranks have given no sign for too long.

    Args:
        ranks: how many there are.
        patience: seconds without a sign.
        pause: seconds between two calls of `of`; a much longer one shows that this process itself was stopped, as by Ctrl-Z, and
            heard nothing.

    >>> silence = Silence(ranks=2, patience=10, pause=1)
    >>> silence.of({0: "1", 1: "1"}, now=0.0), silence.of({0: "2", 1: "1"}, now=1.0)
    ([], [])
    >>> [silence.of({0: str(now), 1: "1"}, now=float(now)) for now in (5, 9, 11)]
    [[], [], [1]]
    """

    def __init__(self, ranks: int, patience: float, pause: float) -> None:
        self.patience, self.pause = patience, pause
        self._last: float | None = None
        self._heard: dict[int, tuple[str, float]] = dict.fromkeys(range(ranks), ("", 0.0))

    def of(self, signs: Mapping[int, str], now: float) -> list[int]:
        """The silent ranks.

        Args:
            signs: the latest of each rank; one that differs from that before is a sign of life.
            now: in seconds.
        """
        was_stopped = self._last is None or now - self._last > self.patience / 2 + self.pause
        self._last = now
        for rank, (before, _) in self._heard.items():
            if was_stopped or signs.get(rank, "") != before:
                self._heard[rank] = (signs.get(rank, ""), now)
        return [
            rank
            for rank, (sign, heard) in self._heard.items()
            if now - heard > self.patience and not sign.startswith(DONE)
        ]

    def quiet_for(self, rank: int, now: float) -> float:
        """Seconds since the last sign of a rank.

        Args:
            rank: which.
            now: in seconds, as of `of`.
        """
        return now - self._heard[rank][1]


@contextmanager
def signs_of_life(patience: float | None, end: Callable[[str, bool], Any]) -> Iterator[None]:
    """Give signs of life from the moment at which the ranks are connected, and look for those of the others.

    They go through the store by which the ranks found one another, in threads of their own: a rank that works for long gives them,
    one that is stopped, or whose machine is gone, does not.

    Args:
        patience: seconds; None: ranks wait for one another as long as their collectives do.
        end: ends this process; called in a thread with a sentence that names the silent rank, and whether this rank is to say it.
    """
    if patience is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(next(_JOBS), patience, end, done), daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        done.set()
        raise
    done.set()
    thread.join(BEAT)


def _watch(job: int, patience: float, end: Callable[[str, bool], Any], done: threading.Event) -> None:
    pause = min(BEAT, patience / 10)
    while not (dist.is_available() and dist.is_initialized()):
        if done.wait(pause):
            return
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if ranks == 1:
        return
    signs: dict[int, str] = {}
    exchange = threading.Thread(target=_exchange, args=(job, rank, ranks, signs, pause, done), daemon=True)
    exchange.start()
    silence = Silence(ranks, patience, pause)
    while not done.wait(pause):
        now = time.monotonic()
        if not (silent := silence.of(dict(signs), now)):
            continue
        # this process gives signs: where its own do not come back either, it is the store that does not answer
        if silence.quiet_for(rank, now) > patience / 2:
            if (
                os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
                and os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
            ):
                continue  # the launcher of this machine has the store: ranks can go on without
            silent = [0]
        sayer = next((other for other in range(ranks) if other not in silent), 0)
        end(f"{_named(silent, signs)} no sign of life for {patience:g} s (rank_timeout).", rank == sayer)
    exchange.join(BEAT)


def _named(silent: list[int], signs: Mapping[int, str]) -> str:
    places = [f"{rank} ({where})" if (where := signs.get(rank, "").partition(" ")[2]) else str(rank) for rank in silent]
    return f"Rank {places[0]} has given" if len(places) == 1 else f"Ranks {', '.join(places)} have given"


def _exchange(job: int, rank: int, ranks: int, signs: dict[int, str], pause: float, done: threading.Event) -> None:
    """Put a sign of this rank into the store and take those of all, until the job is done."""
    keys = [f"hardneg_plugin/{job}/{other}" for other in range(ranks)]
    where = f"process {os.getpid()} on {socket.gethostname()}"
    with suppress(RuntimeError):  # the store is gone, with whoever has it
        # its own connection: that of the collectives may be waiting
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=60))
        for beat in itertools.count():
            is_done = done.wait(pause if beat else 0)
            store.set(keys[rank], DONE if is_done else f"{beat} {where}")
            if is_done:
                return
            signs.update({other: store.get(key).decode() for other, key in enumerate(keys) if store.check([key])})
