"""What the exchange of a training step costs: measured on processes of this machine, modelled for many GPUs.

Measured: a gloo group of one thread each; each rank trains the demo's model. A step of a rank without any exchange, DDP's average
of all gradients, and the three collectives of `HardNegativeObjective` for 16, 64 and 256 studies a rank. Medians over repeats,
which all ranks start together, of the slowest rank. The bytes in the collectives of the objective are counted and must be those
of the formula.

Modelled: rings, in which N ranks pass S bytes in `(N - 1) (latency + S / N / bandwidth)` seconds, and in twice that for a sum.
Latency and bandwidth are fitted to plain collectives of this machine, for its own column; for GPUs they are arguments, and so are
the step and the number of parameters.

    python benchmarks/gather.py [--ranks 2 4] [--studies 16 64 256]
    python benchmarks/gather.py --ranks --latency 20e-6 --bandwidth 25e9 --step 0.089 --parameters 100e6
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from overhead import Step
from torch.multiprocessing import spawn

from hardneg_plugin import HardNegativeObjective, PairEmbeddings, distributed
from hardneg_plugin.distributed import Shards
from hardneg_plugin.objectives.schedule import TrainingProgress

WIDTH, IMAGE_WIDTH, REPORT_WIDTH = 256, 512, 256
KEYS = 5 * 8
"""Bytes of a study's match keys and of whether it is usable."""
GPUS, STUDIES = (8, 64, 512), (16, 256)


@dataclass(frozen=True)
class Network:
    """Of rings.

    Args:
        latency: of a hop, in seconds.
        bandwidth: of a rank, in bytes per second.
    """

    latency: float
    bandwidth: float

    def gather(self, ranks: int, size: float) -> float:
        """Seconds until all ranks have the `size` bytes of all ranks."""
        return (ranks - 1) * (self.latency + size / ranks / self.bandwidth)

    def sum(self, ranks: int, size: float) -> float:
        """Seconds until all ranks have the sum of `size` bytes."""
        return 2 * self.gather(ranks, size)


def bytes_of_step(ranks: int, studies: int) -> dict[str, int]:
    """What the collectives of the objective have on each rank at their end, by collective.

    Args:
        ranks: how many.
        studies: of each rank.
    """
    return {
        "sizes and sums": ranks * 4 * (1 + IMAGE_WIDTH + REPORT_WIDTH + 1),
        "embeddings and keys": ranks * studies * (2 * WIDTH * 4 + KEYS),
        "gradient": ranks * studies * 2 * WIDTH * 4,
    }


def seconds_of_step(network: Network, ranks: int, studies: int) -> float:
    """By the model, of the objective's exchange."""
    first, rows, gradient = bytes_of_step(ranks, studies).values()
    return network.gather(ranks, first) + network.gather(ranks, rows) + network.sum(ranks, gradient)


def step_of_objective(studies: int) -> None:
    """Forward and backward of the objective."""
    objective = HardNegativeObjective(image_width=IMAGE_WIDTH, report_width=REPORT_WIDTH, width=WIDTH)
    features = (torch.randn(studies, width, requires_grad=True) for width in (IMAGE_WIDTH, REPORT_WIDTH))
    ids = [f"{dist.get_rank()} {study}" for study in range(studies)]
    objective(PairEmbeddings(*features, study_ids=ids), TrainingProgress(fraction=0.5)).alignment_loss.backward()


def exchange(studies: int) -> None:
    """Its exchange alone."""
    shards, _ = Shards.with_sum(torch.ones(studies, IMAGE_WIDTH + REPORT_WIDTH + 1))
    keys = torch.zeros(studies, KEYS // 8, dtype=torch.int64)
    rows, _ = shards.gather_with(torch.ones(studies, 2 * WIDTH, requires_grad=True), keys)
    rows.sum().backward()


@contextmanager
def counted() -> Iterator[list[int]]:
    """The bytes that each collective has at its end."""
    sizes: list[int] = []
    real = {name: getattr(dist, name) for name in ("all_gather", "all_reduce")}

    def counting(name: str) -> Callable[..., Any]:
        def call(result: Any, *arguments: Any, **options: Any) -> Any:
            tensors = result if isinstance(result, list) else [result]
            sizes.append(sum(t.numel() * t.element_size() for t in tensors))
            return real[name](result, *arguments, **options)

        return call

    for name in real:
        setattr(dist, name, counting(name))
    yield sizes
    for name, function in real.items():
        setattr(dist, name, function)


def slowest_seconds(call: Callable[[], object], repeats: int) -> float:
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


def fitted_network(ranks: int) -> Network:
    """Latency and bandwidth of plain gathers and sums between the ranks of this machine."""
    rows = []
    for size in (1e3, 1e4, 1e5, 1e6):
        own = torch.zeros(int(size))
        parts = [torch.empty_like(own) for _ in range(ranks)]
        gathers = slowest_seconds(partial(dist.all_gather, parts, own), repeats=20)
        sums = slowest_seconds(partial(dist.all_reduce, own), repeats=20)
        hops = ranks - 1
        # divided by what was measured: relative errors count
        rows.append([hops / gathers, hops * 4 * size / gathers])
        rows.append([2 * hops / sums, 2 * hops * 4 * size / ranks / sums])
    seconds = np.ones(len(rows))
    (latency, per_byte), *_ = np.linalg.lstsq(np.array(rows), seconds, rcond=None)
    return Network(max(latency, 0.0), 1 / per_byte)


def _rank(rank: int, ranks: int, studies: list[int], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    step = Step("phantom", "in_batch", studies=16)
    gradients = torch.zeros(sum(p.numel() for p in step.model.parameters()))
    result: dict[str, Any] = {"parameters": len(gradients)}
    alone, distributed.world_size = distributed.world_size, lambda: 1
    result["step"] = slowest_seconds(step, repeats=5)
    distributed.world_size = alone
    result["ddp"] = slowest_seconds(lambda: dist.all_reduce(gradients), repeats=20)
    network = fitted_network(ranks)
    result["network"] = vars(network)
    for number in studies:
        with counted() as sizes:
            step_of_objective(number)
        if sizes != list(bytes_of_step(ranks, number).values()):
            raise AssertionError(f"expected {bytes_of_step(ranks, number)}, but counted {sizes}")
        result[f"exchange of {number}"] = {
            "seconds": slowest_seconds(partial(exchange, number), repeats=50),
            "model": seconds_of_step(network, ranks, number),
            "bytes": sum(sizes),
        }
    if rank == 0:
        with open(f"{folder}/result.json", "w") as file:
            json.dump(result, file)
    dist.destroy_process_group()


def measure(ranks: int, studies: list[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (ranks, studies, folder), nprocs=ranks)
        with open(f"{folder}/result.json") as file:
            result: dict[str, Any] = json.load(file)
    network = result["network"]
    print(
        f"{ranks} ranks, {result['parameters'] / 1e6:.1f} M parameters; step {1000 * result['step']:.0f} ms, DDP "
        f"{1000 * result['ddp']:.1f} ms; latency {1e6 * network['latency']:.0f} us, {network['bandwidth'] / 1e9:.2f} GB/s"
    )
    for number in studies:
        row = result[f"exchange of {number}"]
        print(
            f"  {number:4} studies a rank  {row['bytes'] / 1e6:8.3f} MB  measured {1000 * row['seconds']:7.2f} ms  "
            f"model {1000 * row['model']:7.2f} ms  share of a step {row['seconds'] / result['step']:.4f}"
        )
    return result


def modelled(network: Network, step: float, parameters: float) -> list[dict[str, float]]:
    """For GPUs, with a step of 16 studies; it grows with the studies."""
    rows = []
    for studies in STUDIES:
        for ranks in GPUS:
            computed = step * studies / 16
            exchange = seconds_of_step(network, ranks, studies)
            rows.append(
                {
                    "studies a GPU": studies,
                    "GPUs": ranks,
                    "in the contrast": studies * ranks,
                    "MB": sum(bytes_of_step(ranks, studies).values()) / 1e6,
                    "step ms": 1000 * computed,
                    "DDP ms": 1000 * network.sum(ranks, 4 * parameters),
                    "exchange ms": 1000 * exchange,
                    "of the step": exchange / computed,
                    "logits MB": 4 * studies * studies * ranks / 1e6,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--studies", type=int, nargs="+", default=[16, 64, 256], help="of each rank")
    parser.add_argument("--latency", type=float, default=20e-6, help="of a hop between GPUs, in seconds")
    parser.add_argument("--bandwidth", type=float, default=25e9, help="of a GPU, in bytes per second")
    parser.add_argument("--step", type=float, default=0.089, help="of 16 studies, in seconds")
    parser.add_argument("--parameters", type=float, default=100e6)
    options = parser.parse_args()
    measured = {ranks: measure(ranks, options.studies) for ranks in options.ranks}
    rows = modelled(Network(options.latency, options.bandwidth), options.step, options.parameters)
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    print(json.dumps({"benchmark": "gather", "measured": measured, "modelled": rows}))


if __name__ == "__main__":
    main()
