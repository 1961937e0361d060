"""What gathering embeddings, match keys and sizes over ranks costs beside a training step and DDP's own exchange.

Processes of one machine in a gloo group, one thread each; each rank trains the demo's model on 16 studies. Rows: a step of a
rank without any exchange, DDP's average of all gradients, and the objective's four collectives of rows, forward and backward.
Medians over repeats, which all ranks start together, of the slowest rank. Prints a table and a JSON line.

    python benchmarks/gather.py [--ranks 2 4] [--studies 16 64]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from overhead import Step
from torch.multiprocessing import spawn

from hardneg_plugin import distributed
from hardneg_plugin.distributed import Shards

WIDTH = 256


def exchange(studies: int) -> None:
    """What `HardNegativeObjective` exchanges in a step."""
    embeddings = torch.randn(studies, 2 * WIDTH, requires_grad=True)
    shards = Shards.of(studies, embeddings.device)
    shards.gather(embeddings).sum().backward()
    shards.gather(torch.zeros(studies, 4, dtype=torch.int64))


def average(gradients: torch.Tensor) -> None:
    """What DDP exchanges in a step, in one piece."""
    dist.all_reduce(gradients)


def slowest_seconds(call: Callable[[], None], repeats: int) -> float:
    """Median over repeats of the slowest rank's seconds."""
    seconds = []
    for _ in range(repeats + 1):
        dist.barrier()
        start = time.perf_counter()
        call()
        spent = torch.tensor(time.perf_counter() - start)
        dist.all_reduce(spent, op=dist.ReduceOp.MAX)
        seconds.append(spent.item())
    return statistics.median(seconds[1:])


def _rank(rank: int, ranks: int, studies: list[int], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    step = Step("phantom", "in_batch", studies=16)
    gradients = torch.zeros(sum(p.numel() for p in step.model.parameters()))
    result: dict[str, float] = {"parameters": len(gradients)}
    alone, distributed.world_size = distributed.world_size, lambda: 1
    result["step"] = slowest_seconds(step, repeats=5)
    distributed.world_size = alone
    result["ddp"] = slowest_seconds(lambda: average(gradients), repeats=20)
    for number in studies:
        result[f"gather of {number}"] = slowest_seconds(lambda number=number: exchange(number), repeats=50)
    if rank == 0:
        with open(f"{folder}/result.json", "w") as file:
            json.dump(result, file)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--studies", type=int, nargs="+", default=[16, 64, 256], help="of each rank")
    arguments = parser.parse_args()
    results = {}
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            spawn(_rank, (ranks, arguments.studies, folder), nprocs=ranks)
            with open(f"{folder}/result.json") as file:
                results[ranks] = json.load(file)
    parameters = next(iter(results.values()))["parameters"]
    print(
        f"Milliseconds, and shares of a step of 16 studies per rank; {parameters / 1e6:.1f} M parameters, width {WIDTH}"
    )
    rows = ["step", "ddp", *(f"gather of {number}" for number in arguments.studies)]
    print(f"{'':16}" + "".join(f"{f'{ranks} ranks':>24}" for ranks in results))
    for row in rows:
        cells = (f"{1000 * r[row]:10.2f}  ({r[row] / r['step']:.4f})" for r in results.values())
        print(f"{row:16}" + "".join(f"{cell:>24}" for cell in cells))
    print(json.dumps({"benchmark": "gather", **results}))


if __name__ == "__main__":
    main()
