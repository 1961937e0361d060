"""NCCL and FSDP2: with as many processes as there are cards, with one where there is one; gloo on a CPU."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from gpu_parts.card import exact
from gpu_parts.part import Rows, Setting


def run(setting: Setting, rows: Rows) -> None:
    """DDP and FSDP2 against a step without them."""
    cards = torch.cuda.device_count() if setting.is_cuda else 1
    for kind in ("collectives", "ddp", "fsdp2"):
        for count in sorted({1, cards}):
            with rows.row(f"{kind}, {count} of {cards}") as row, tempfile.TemporaryDirectory() as folder:
                row["backend"] = "nccl" if setting.is_cuda else "gloo"
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
                file = Path(folder) / "found.pt"
                if count == 1:
                    _rank(0, count, port, kind, setting, file)
                else:
                    torch.multiprocessing.spawn(_rank, (count, port, kind, setting, file), nprocs=count)
                row |= torch.load(file, weights_only=True)


def _rank(rank: int, count: int, port: int, kind: str, setting: Setting, file: Path) -> None:
    exact()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    options: dict[str, Any] = {}
    if setting.is_cuda:
        torch.cuda.set_device(rank)
        options["device_id"] = torch.device("cuda", rank)
    dist.init_process_group("nccl" if setting.is_cuda else "gloo", rank=rank, world_size=count, **options)
    try:
        found = {"collectives": _collectives, "ddp": _ddp, "fsdp2": _fsdp2}[kind](rank, count, setting)
        if rank == 0:
            torch.save(found, file)
    finally:
        dist.destroy_process_group()


def _collectives(rank: int, count: int, setting: Setting) -> dict[str, Any]:
    """Those that the plug-in uses, whatever the number of ranks."""
    ones = torch.full((3, 4), float(rank + 1), device=setting.device)
    total = ones.clone()
    dist.all_reduce(total)
    gathered = [torch.empty_like(ones) for _ in range(count)]
    dist.all_gather(gathered, ones)
    first = ones.clone()
    dist.broadcast(first, src=0)
    sums = total.eq(count * (count + 1) / 2).all() & first.eq(1).all() & torch.cat(gathered)[-1].eq(count).all()
    return {"ok": bool(sums)}


class Whole(torch.nn.Module):
    """A step as a module, for wrappers: its forward is the loss, times an argument, since wrappers ask for one.

    Args:
        step: a `Step`.
    """

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.model = step.model
        self._loss = step.loss

    def forward(self, factor: torch.Tensor) -> torch.Tensor:
        return self._loss() * factor


def _ddp(rank: int, count: int, setting: Setting) -> dict[str, Any]:
    from gpu_parts.steps import Step

    plain = Step("in_batch", "phantom", 8, setting, precision="float32")
    wrapped = Step("in_batch", "phantom", 8, setting, precision="float32")

    device_ids = [rank] if setting.is_cuda else None
    whole = torch.nn.parallel.DistributedDataParallel(Whole(wrapped), device_ids=device_ids)
    loss: torch.Tensor = whole(torch.ones((), device=setting.device))
    loss.backward()
    if count > 1:  # ranks have the same batch: studies match their copies, so the loss is another one
        return {"loss": loss.item(), "ok": bool(torch.isfinite(loss))}
    return _differences(plain, wrapped, loss)


def _fsdp2(rank: int, count: int, setting: Setting) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from gpu_parts.steps import Step

    plain = Step("in_batch", "phantom", 8, setting, precision="float32")
    sharded = Step("in_batch", "phantom", 8, setting, precision="float32")
    whole = fully_shard(Whole(sharded), mesh=init_device_mesh(setting.device, (count,)))
    loss: torch.Tensor = whole(torch.ones((), device=setting.device))
    loss.backward()
    if count > 1:
        return {"loss": loss.item(), "ok": bool(torch.isfinite(loss))}
    return _differences(plain, sharded, loss)


def _differences(plain: Any, other: Any, loss: torch.Tensor) -> dict[str, Any]:
    """Relative to the step without a wrapper."""
    expected = plain.loss()
    expected.backward()
    gradients = {name: p.grad for name, p in other.model.named_parameters() if p.grad is not None}
    largest = max(p.grad.norm().item() for p in plain.model.parameters() if p.grad is not None)
    differences = []
    for name, p in plain.model.named_parameters():
        if p.grad is not None:
            got: Any = gradients[name]
            got = got.full_tensor() if hasattr(got, "full_tensor") else got
            differences.append((got - p.grad).norm().item() / largest)
    found = {"loss": abs(loss.item() - expected.item()) / abs(expected.item()), "gradient": max(differences)}
    return {**found, "ok": found["loss"] < 1e-5 and found["gradient"] < 1e-3}
