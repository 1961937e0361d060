"""A function over many items in several processes: results in order, with few items in memory."""

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
    """Yield each item and its result, in the order of the items; close the generator to end the processes.

    Args:
        function: one that a process can import.
        items: read when needed; at most two per worker wait for their results.
        workers: number of processes; 0: only this one.
        argument: makes the argument of the function from an item.

    Raises:
        UserError: a process was killed from outside.
    """
    if not workers:
        for item in items:
            yield item, function(argument(item))
        return
    # Forked from a fresh process: a fork of this one may wait for ever for threads that do not exist in it.
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
            "A worker process was killed from outside, most likely for lack of memory. Set fewer workers and run the same "
            "command again: it continues where it stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _first(waiting: "deque[tuple[Item, Future[Result]]]") -> tuple[Item, Result]:
    item, future = waiting.popleft()
    return item, future.result()


def _start() -> None:
    """Start of a process: it uses one core, and ends at an interrupt or with its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
