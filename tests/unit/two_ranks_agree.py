"""Two processes that average gradients and check a module; of its own, for started processes to import."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import start_processes

from hardneg_plugin.agreement import check_agreement
from hardneg_plugin.distributed import average_gradients
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives.memory import ReportQueue


def on_two_ranks(folder: Path) -> list[dict[str, Any]]:
    """What each rank saw; `folder` is an empty one."""
    start_processes(_rank, (str(folder),), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def layer() -> nn.Sequential:
    """A float32 and a float64 layer, the same on all ranks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2).double())


def batch(rank: int, index: int) -> torch.Tensor:
    """Inputs `(4, 3)`."""
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * rank + index))


def losses(model: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
    """A loss that reaches all parameters."""
    return model[0](inputs).square().mean() + model[1](inputs.double()).square().mean()


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    seen = {"accumulated": _accumulated(rank), "some": _some_have_none(rank), "errors": _errors(rank)}
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _accumulated(rank: int) -> list[torch.Tensor]:
    model = layer()
    model[0].bias.requires_grad_(False)
    for index in (0, 1):
        losses(model, batch(rank, index)).backward()
        average_gradients(model.parameters())
    return [p.grad for p in model.parameters() if p.requires_grad]


def _some_have_none(rank: int) -> list[torch.Tensor | None]:
    one, none = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    if rank == 1:
        (6 * one).sum().backward()
    average_gradients([one, none])
    return [one.grad, none.grad]


def _errors(rank: int) -> dict[str, str]:
    drifted = layer()
    with torch.no_grad():
        drifted[1].weight[0, 0] += 1e-12 * rank
    queue, buffer = ReportQueue(3), nn.BatchNorm1d(2)
    queue.push(torch.ones(2, 4), torch.ones(2, 4) + rank, torch.ones(2, 1, dtype=torch.int64))
    buffer.running_var[1] = rank
    rounded, shapes, infinite = layer(), nn.Linear(2, 2 + rank), layer()
    brief = nn.Linear(64, 64, dtype=torch.bfloat16)
    learned = layer()
    with torch.no_grad():
        for parameter in rounded.parameters():  # as after some steps on devices of two kinds
            parameter *= 1 + 8 * rank * torch.finfo(parameter.dtype).eps
        infinite[0].weight[0, 0] = torch.inf if rank else torch.nan
        nn.init.uniform_(brief.weight, -1, 1, generator=torch.Generator().manual_seed(0))
        brief.bias.fill_(1.0 + rank / 128)  # the next bfloat16
    optimizer = torch.optim.Adam(learned.parameters(), lr=1e-5)
    losses(learned, batch(rank, 0)).backward()
    optimizer.step()
    given = {"same": layer(), "parameter": drifted, "queue": queue, "buffer": buffer, "empty": nn.Identity()}
    given |= {"rounded": rounded, "shapes": shapes, "infinite": infinite, "brief": brief, "learned": learned}
    return {name: _error(module) for name, module in given.items()}


def _error(module: nn.Module) -> str:
    try:
        check_agreement(module, "the objective")
    except UserError as error:
        return str(error)
    return ""
