"""What a bank of all studies takes on each rank, by where it keeps them: bytes, milliseconds of a step, seconds of a search.

Processes of one machine in a gloo group, one thread each. The banks are full and take turns in one run, step by step, so that a
slow spell of the machine falls on all of them. A step is the objective alone, forward and backward, on features of 16 studies of
each rank; medians of the slowest rank. The first row is the default. `device=cpu` differs from it where batches are on a GPU.
Prints a table and a JSON line.

    python benchmarks/bank.py [--studies 20000] [--ranks 2]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import spawn
from torch.nn.functional import normalize

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.objectives import Bank
from hardneg_plugin.objectives.schedule import TrainingProgress

SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "cpu": {"device": "cpu"},
    "sharded": {"sharded": True},
    "sharded, bfloat16": {"sharded": True, "dtype": "bfloat16"},
}
WIDTH, BATCH, STEPS = 256, 16, 40


class Step:
    """Forward and backward of an objective whose bank is full."""

    def __init__(self, studies: int, setting: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.source = Bank(**setting)
        self.objective = HardNegativeObjective(
            negatives=self.source, image_width=WIDTH, report_width=WIDTH, width=WIDTH
        )
        self.studies, self.step, self.epoch = studies, 0, 0
        random = torch.Generator().manual_seed(1)
        for numbers in torch.arange(studies).split(4096):
            images, reports = normalize(torch.randn(2, len(numbers), WIDTH, generator=random), dim=-1)
            unknown = torch.full_like(numbers, -1)
            keys = torch.stack([numbers, unknown, unknown, unknown], dim=1)
            self.source.bank.write(numbers, keys, images, reports)

    def __call__(self) -> None:
        self.step += 1
        random = torch.Generator().manual_seed(1000 * self.step + dist.get_rank())
        images, reports = torch.randn(2, BATCH, WIDTH, generator=random).requires_grad_()
        numbers = torch.randint(self.studies, (BATCH,), generator=random)
        progress = TrainingProgress(step=self.step, epoch=self.epoch)
        self.objective(PairEmbeddings(images, reports, study_ids=numbers), progress).alignment_loss.backward()

    def search(self) -> None:
        """A step that begins an epoch."""
        self.epoch += 1
        self()


def slowest_seconds(call: Callable[[], None]) -> float:
    """Of the slowest rank; all begin together."""
    dist.barrier()
    start = time.perf_counter()
    call()
    spent = torch.tensor(time.perf_counter() - start)
    dist.all_reduce(spent, op=dist.ReduceOp.MAX)
    return spent.item()


def _rank(rank: int, ranks: int, studies: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    steps = {name: Step(studies, setting) for name, setting in SETTINGS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    searches = {name: slowest_seconds(step.search) for name, step in steps.items()}
    for turn in range(STEPS + 3):
        for name, step in steps.items():
            spent = slowest_seconds(step)
            if turn >= 3:
                seconds[name].append(spent)
    result = {}
    for name, step in steps.items():
        largest = torch.tensor(step.source.nbytes)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        result[name] = {
            "bytes a study": int(largest) / studies,
            "step, ms": 1000 * statistics.median(seconds[name]),
            "search, s": searches[name],
        }
    if rank == 0:
        Path(folder, "result.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (arguments.ranks, arguments.studies, folder), nprocs=arguments.ranks)
        results = json.loads(Path(folder, "result.json").read_text())
    before = next(iter(results.values()))
    print(f"{arguments.studies:,} studies, width {WIDTH}, {arguments.ranks} ranks; in brackets over the first row")
    print(f"{'':20}" + "".join(f"{column:>24}" for column in before))
    for name, row in results.items():
        cells = (f"{value:.4g} ({value / before[column]:.2f})" for column, value in row.items())
        print(f"{name:20}" + "".join(f"{cell:>24}" for cell in cells))
    print(json.dumps({"benchmark": "bank", **vars(arguments), **results}))


if __name__ == "__main__":
    main()
