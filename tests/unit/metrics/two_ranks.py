"""Two processes of a gloo group that share a metric's studies; a module of its own, for started processes to import."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from hardneg_plugin.apps.shared.rank_main import Surroundings
from hardneg_plugin.metrics.study_metric import StudyMetric


class Lengths(StudyMetric[dict[str, int]]):
    """The mean number of words, and that of each text."""

    def update(self, ids: list[str], texts: list[str]) -> None:
        self.remember(ids, texts)

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], dict[str, int]]:
        (texts,) = columns
        words = [len(text.split()) for text in texts]
        return {"words": sum(words) / len(words)}, dict(zip(ids, words, strict=True))


class Failing(StudyMetric[None]):
    """A metric that cannot be scored."""

    def update(self, ids: list[str]) -> None:
        self.remember(ids)

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], None]:
        raise ArithmeticError(f"no score of {ids}")


def compute_over_two_ranks(
    tasks: dict[str, tuple[StudyMetric, list[list[dict]]]], folder: Path
) -> list[dict[str, Any]]:
    """What each of two ranks computes: by task the scores, or the exception raised.

    Args:
        tasks: by name a metric, and for each rank the keyword arguments of its updates.
        folder: an empty one.
    """
    torch.save(tasks, folder / "tasks.pt")
    # the fake Java is on the path of this process, which the fork server may not know
    start_processes(_rank, (str(folder), Surroundings()), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"results-{rank}.pt", weights_only=False) for rank in (0, 1)]


def _rank(rank: int, folder: str, surroundings: None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    tasks = torch.load(f"{folder}/tasks.pt", weights_only=False)
    results: dict[str, Any] = {"imported before computing": set(sys.modules)}
    for name, (metric, updates) in tasks.items():
        try:
            for update in updates[rank]:
                metric.update(**update)
            scores = metric.compute()
            told = metric.records() if hasattr(metric, "records") else metric._details
            results[name] = scores, told, sum(len(batch[0]) for batch in metric._batches)
        except Exception as error:
            results[name] = error
    torch.save(results, f"{folder}/results-{rank}.pt")
    dist.destroy_process_group()
