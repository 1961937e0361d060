"""A function over many items in several processes: results in order, and only a few items held at a time."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from hardneg_plugin.errors import UserError

Item = TypeVar("Item")
Argument = TypeVar("Argument")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Argument], Result],
    items: Iterable[Item],
    workers: int,
    *,
    argument: Callable[[Item], Argument],
) -> Generator[tuple[Item, Result], None, None]:
    """Each item and its result, in the order of the items; close it to end the processes.

    Args:
        function: what a process can import.
        items: read as they are needed; at most two per worker are waiting for their results.
        workers: processes; 0 is this one alone.
        argument: what of an item the function is given.

    Raises:
        UserError: a process was ended from outside.
    """
    if not workers:
        for item in items:
            yield item, function(argument(item))
        return
    # Forked from a fresh process: one forked from this may wait for ever for threads that were not forked with it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", function.__module__])  # so that it is imported only once
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, argument(item))))
            if len(waiting) >= 2 * workers:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process was ended from outside, most likely because the memory was full. Set fewer workers and give "
            "the same command again: it goes on where it was."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _first(waiting: "deque[tuple[Item, Future[Result]]]") -> tuple[Item, Result]:
    item, future = waiting.popleft()
    return item, future.result()


def _start() -> None:
    """At the start of a process: one core is its share, and it ends with an interrupt or with its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
