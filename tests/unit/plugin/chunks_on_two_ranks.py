"""Two processes that train in chunks under DDP and FSDP2; of its own, for started processes to import."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from hardneg_plugin import HardNegativeObjective, PairEmbeddings, plug_in
from hardneg_plugin.objectives import Weights
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress
from hardneg_plugin.plugin.chunks import HostStep, joined, run_parts

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader

STRATEGIES = ("ddp", "ddp_find_unused", "ddp_static_graph", "fsdp2")


class InForward(nn.Module):
    """As a Lightning strategy calls the step: within the forward of what DDP or FSDP wraps."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        options = {"schedule": Constant(hardness=0.5), "weights": Weights(0.7, 0.5, 0.0)}
        objective = HardNegativeObjective(image_width=8, report_width=8, width=4, **options)
        self.model = plug_in(Captioner(dropout=0.0), objective, **PLACES, chunks=chunks)
        self.model.__dict__["_progress"] = lambda: TrainingProgress(step=3, epoch=0, fraction=0.3)
        self.model.__dict__["_are_logs_read"] = lambda: True
        self.model.__dict__["log"] = lambda *args, **options: None

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = self.model.training_step(batch, 0)
        return loss


def batches() -> list[dict[str, Any]]:
    """Of each rank, and of both together."""
    both = next(iter(loader(16, 16)))
    return [*({key: value[rows] for key, value in both.items()} for rows in (slice(0, 8), slice(8, 16))), both]


def gradients_on_two_ranks(folder: Path) -> list[dict[str, dict[str, torch.Tensor]]]:
    """By rank, strategy and parameter; `folder` is an empty one."""
    start_processes(_rank, (str(folder),), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def layers() -> nn.Module:
    """A host that DDP wraps alone, as in Hugging Face's Trainer; with buffers, and a scale of what is outside the parts."""
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(8, 6)).eval()
    host.register_parameter("scale", nn.Parameter(torch.ones(())))
    return host


def contrast(host: nn.Module, batch: dict[str, Any], chunks: int) -> torch.Tensor:
    """A loss over all pairs of a rank's studies, from a host that is called in the step."""

    def step(part: dict[str, Any], index: int, again: bool) -> HostStep:
        states = host(part["images"])
        pooled = states.mean(1)
        return HostStep(states, states.square().mean(), PairEmbeddings(pooled, pooled), weight=len(pooled))

    whole = joined(run_parts(step, batch, chunks, host))
    assert whole.loss is not None
    assert whole.pairs is not None
    # its gradient is there before that of any part
    scale = host.get_parameter("scale" if isinstance(host, nn.Sequential) else "module.scale")
    return whole.loss + (scale * whole.pairs.images @ whole.pairs.reports.T).logsumexp(1).mean()


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {strategy: _gradients(strategy, batches()[rank]) for strategy in STRATEGIES}
    ddp = DistributedDataParallel(layers())
    contrast(ddp, batches()[rank], 3).backward()
    torch.save(
        {**found, "called in the step": {name: p.grad for name, p in ddp.module.named_parameters()}},
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def _gradients(strategy: str, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    step = InForward(chunks=3)
    if strategy == "fsdp2":
        mesh = dist.init_device_mesh("cpu", (2,))
        for module in (step.model.encoder, step.model.decoder["norm"]):
            fully_shard(module, mesh=mesh)
        fully_shard(step, mesh=mesh)
        step(batch).backward()
    else:
        options = {
            "find_unused_parameters": strategy == "ddp_find_unused",
            "static_graph": strategy == "ddp_static_graph",
        }
        parallel = DistributedDataParallel(step, **options)
        parallel(batch).backward()
    found = {name: p.grad for name, p in step.named_parameters()}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}
