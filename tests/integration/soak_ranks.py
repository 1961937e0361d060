"""Thousands of steps of a small plugged-in host under Lightning's DDP; a module of its own, for started processes."""

import gc
import os
import re
import socket
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.objectives import Alternating, Bank, Queue, Weights

STEPS = int(os.environ.get("SOAK_STEPS", "200"))
"""Of each training; `make soak` takes more."""
LOOK_EVERY = STEPS // 8
OBJECTIVES = {
    "queue": lambda: HardNegativeObjective(
        negatives=Queue(size=100, k=2, pool=5), image_width=8, report_width=6, width=4, weights=Weights(alignment=1.0)
    ),
    "bank": lambda: HardNegativeObjective(
        negatives=Bank(k=2, pool=4),
        hardening=Alternating(),
        image_width=8,
        report_width=6,
        width=4,
        weights=Weights(alignment=1.0),
    ),
}


class Host(pl.LightningModule):
    """Two linear encoders, which know nothing of the plug-in."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.report = nn.Linear(12, 8), nn.Linear(10, 6)
        self.output = nn.Linear(8, 6)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return (self.output(self.image(batch["images"])) - self.report(batch["reports"])).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Look(pl.Callback):
    """Memory, objects and a checksum of everything that training keeps, every so many steps."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % LOOK_EVERY == 0:
            gc.collect()
            status = Path("/proc/self/status").read_text()
            self.seen.append(
                {
                    "kib": int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)),
                    "tensors": sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()),
                    "checksum": _checksum(pl_module.state_dict()),
                    "alignment_loss": trainer.callback_metrics["train/alignment_loss"].item(),
                }
            )


def _checksum(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [(key, *_checksum(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [sum_ for one in value for sum_ in _checksum(one)]
    if isinstance(value, Tensor) and value.numel():
        return [
            value.double().sum().item(),
            (value.double() * torch.arange(1, value.numel() + 1).view_as(value)).sum().item(),
        ]
    return [str(value)]


def soak(folder: Path) -> list[dict[str, Any]]:
    """What each of two ranks saw, by objective."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_rank, (port, str(folder)), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"seen-{rank}.pt", weights_only=False) for rank in (0, 1)]


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
    )
    random = torch.Generator().manual_seed(0)
    studies = [
        {"id": f"study {i}", "images": torch.randn(12, generator=random), "reports": torch.randn(10, generator=random)}
        for i in range(250)  # no multiple of what two ranks take in a step
    ]
    seen = {}
    for name, make in OBJECTIVES.items():
        pl.seed_everything(1, verbose=False)
        model = plug_in(Host(), make(), images="image", reports="report", study_ids="batch.id")
        look = Look()
        trainer = pl.Trainer(
            max_steps=STEPS,
            max_epochs=-1,
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            plugins=[LightningEnvironment()],
            callbacks=[look],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            trainer.fit(model, DataLoader(studies, batch_size=4, shuffle=True))
        seen[name] = {
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "looks": look.seen,
            "warnings": [str(warning.message) for warning in warned],
        }
    torch.save(seen, f"{folder}/seen-{rank}.pt")
