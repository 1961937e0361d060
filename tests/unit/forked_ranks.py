"""Ranks of a gloo group as forks of the test's process: they start in milliseconds, and a test can define what they run."""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(run: Callable[[int], Any], ranks: int = 2) -> list[Any]:
    """What a function returns on each rank.

    Args:
        run: called with the rank; what it returns is pickled, so tensors must be detached.
        ranks: how many.

    Raises:
        AssertionError: with the traceback of a rank that raised.
    """
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [fork.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            fork.Process(target=_rank, args=(run, rank, ranks, folder, pipes[rank][1]), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for _, sending in pipes:
            sending.close()
        try:
            results = [pickle.loads(receiving.recv_bytes()) for receiving, _ in pipes]
        except EOFError:
            results = [(None, "a rank ended without an answer")]
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    for _, error in results:
        assert error is None, error
    return [result for result, _ in results]


def _rank(run: Callable[[int], Any], rank: int, ranks: int, folder: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=timedelta(seconds=20)
        )
        result = run(rank), None
    except BaseException:
        result = None, traceback.format_exc()
    answer.send_bytes(pickle.dumps(result))
