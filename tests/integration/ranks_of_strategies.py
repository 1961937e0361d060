"""A small host that is trained under one strategy after another; a module of its own, for started processes to import."""

import os
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives.negatives.sources import Queue
from hardneg_plugin.objectives.schedule import Constant
from hardneg_plugin.objectives.separation import Hinge
from hardneg_plugin.objectives.weighted_terms import Weights
from hardneg_plugin.plugin.rank_agreement import whole_state

STRATEGIES = {
    "single": lambda: "auto",
    "ddp": lambda: "ddp",
    "ddp_find_unused_parameters_true": lambda: "ddp_find_unused_parameters_true",
    "ddp_fork": lambda: "ddp_fork",
    "ddp_spawn": lambda: DDPStrategy(start_method="forkserver"),  # pickled as for spawn, but imports are paid once
    "fsdp2_folder": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    "fsdp2_file": lambda: ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    ),
    "spawn": lambda: "ddp_spawn",
    "tensor_parallel": lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2),
}
STARTS_RANKS = ("ddp_fork", "ddp_spawn", "spawn")
"""Strategies that start their ranks in `fit`; the others run in ranks that are there."""


class Host(pl.LightningModule):
    """A captioner with dropout that writes what each rank saw into a folder."""

    def __init__(self, shards: str = "parts") -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 8))
        self.words, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
        self.shards = shards
        self.file: Path | None = None
        self.losses: list[torch.Tensor] = []
        self.alignment: list[float] = []

    def setup(self, stage: str) -> None:
        # Lightning's sampler shuffles by it, whatever a test before this one or the fork server has left there
        os.environ["PL_GLOBAL_SEED"] = "0"
        if getattr(self.trainer.strategy, "_start_method", "") == "forkserver":
            # pickled tensors are shared by the ranks; Lightning copies them for spawn only
            for values in (*self.parameters(), *self.buffers()):
                values.data = values.data.clone()

    def configure_model(self) -> None:
        if self.device_mesh is None:
            return
        parts = [self.encoder, self.words, self.norm]
        if self.shards == "objective too":
            parts.append(self.hard_negatives)
        if self.shards == "whole host":
            parts = [self.encoder, self]  # what is in no other part: the objective, too
        for part in parts:
            fully_shard(part, mesh=self.device_mesh["data_parallel"])
        if self.shards == "whole host":
            register_fsdp_forward_method(self, "training_step")  # which is not forward

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        torch.manual_seed(100 * self.current_epoch + batch_idx)  # a resumed training draws the same dropout
        images, states = self.encoder(batch["images"]).mean(1), self.norm(self.words(batch["tokens"])).mean(1)
        loss = (images - states).square().mean()
        self.losses.append(loss.detach().clone())
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        self.alignment.append(self.trainer.callback_metrics.get("train/alignment_loss", torch.tensor(0.0)).item())

    def on_fit_end(self) -> None:
        seen = {"losses": self.losses, "alignment": self.alignment, "host": {}, "objective": {}}
        for name, value in whole_state(self).items():
            if not name.startswith("hard_negatives."):
                seen["host"][name] = value
        if hasattr(self, "hard_negatives"):
            seen["objective"] = whole_state(self.hard_negatives)
        torch.save(seen, f"{self.file}-{self.global_rank}.pt")

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


class ManualHost(Host):
    """Steps by itself after every second batch."""

    def __init__(self, limit: float, algorithm: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.limit, self.algorithm = limit, algorithm

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(self.with_hard_negatives(loss, batch, loss))
        if batch_idx % 2:
            optimizer = self.optimizers()
            self.clip_gradients(optimizer, self.limit, self.algorithm)
            optimizer.step()
            optimizer.zero_grad()


def host(weight: float | None, seed: int = 1, kind: type[Host] = Host, chunks: int = 1, **options: Any) -> Host:
    """A host; bare for no weight, else with an objective of heads, queue and separation, drawn with a seed."""
    torch.manual_seed(0)
    model = kind(**options)
    if weight is None:
        return model
    torch.manual_seed(seed)
    objective = HardNegativeObjective(
        image_width=8,
        report_width=8,
        width=4,
        negatives=Queue(size=12, k=2),
        separation=Hinge(),
        schedule=Constant(warmup=0.0),
        weights=Weights(alignment=weight, separation=weight),
    )
    return plug_in(model, objective, images="encoder", reports="norm", study_ids="batch.id", chunks=chunks)


def loader() -> DataLoader:
    random = torch.Generator().manual_seed(0)
    studies = [
        {
            "id": f"study {i}",
            "images": torch.randn(5, 4, generator=random),
            "tokens": torch.randint(9, (6,), generator=random),
        }
        for i in range(32)
    ]
    return DataLoader(studies, batch_size=4)


def trainer(strategy: str, folder: Path, epochs: int, **options: Any) -> pl.Trainer:
    checkpoints = ModelCheckpoint(folder, "{epoch}", save_top_k=-1) if options.pop("saves", False) else None
    return pl.Trainer(
        strategy=STRATEGIES[strategy](),
        accelerator="cpu",
        devices=1 if strategy == "single" else 2,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=checkpoints is not None,
        callbacks=checkpoints,
        default_root_dir=folder,
        **options,
    )


def fit(
    strategy: str, folder: Path, name: str, model: Host, epochs: int = 2, ckpt: Path | None = None, **options: Any
) -> None:
    """Train; each rank leaves `NAME-RANK.pt`."""
    model.file = folder / name
    torch.manual_seed(2)
    with patch.dict(os.environ):
        trainer(strategy, folder, epochs, **options).fit(model, loader(), ckpt_path=ckpt)


def fits(strategy: str, folder: Path) -> None:
    """All that the columns of the table need of one strategy."""
    fit(strategy, folder, "bare", host(None))
    fit(strategy, folder, "weight 0", host(0.0))
    fit(strategy, folder, "whole", host(1.0), saves=True)
    fit(strategy, folder, "resumed", host(1.0), ckpt=folder / "epoch=0.ckpt")
    fit(strategy, folder, "accumulated", host(1.0), accumulate_grad_batches=2, gradient_clip_val=0.05)
    if strategy in ("ddp", "fsdp2_folder"):
        fit(strategy, folder, "manual", host(1.0, kind=ManualHost, limit=0.05, algorithm="norm"))
        fit(strategy, folder, "clipped by value", host(1.0, kind=ManualHost, limit=1e-3, algorithm="value"))
        fit(strategy, folder, "chunks", host(1.0, chunks=2))
    if strategy == "fsdp2_file" and (of_ddp := folder.parent / "ddp" / "epoch=0.ckpt").exists():
        fit(strategy, folder, "resumed from ddp", host(1.0), ckpt=of_ddp)
    if strategy == "fsdp2_file":
        after_the_bare_host(folder / "bare host")
    if strategy == "fsdp2_folder":
        fit(strategy, folder, "sharded objective", host(1.0, shards="objective too"), saves=True)
        sharded = host(1.0, shards="objective too")
        fit(strategy, folder, "sharded objective resumed", sharded, ckpt=folder / "epoch=0-v1.ckpt")
        fit(strategy, folder, "sharded host", host(1.0, shards="whole host"))
        fit(strategy, folder, "unseeded", host(1.0, seed=1 + dist.get_rank()))
        fails(folder)


def after_the_bare_host(folder: Path) -> None:
    """Plug in and go on from a checkpoint of the bare host; each rank leaves the error of one without a weight."""
    fit("fsdp2_file", folder, "bare", host(None), epochs=1, saves=True)
    fit("fsdp2_file", folder, "weight 0", host(0.0), ckpt=folder / "epoch=0.ckpt")
    fit("fsdp2_file", folder, "whole", host(1.0), ckpt=folder / "epoch=0.ckpt")
    checkpoint = torch.load(folder / "epoch=0.ckpt")
    del checkpoint["state_dict"]["norm.weight"]
    file = folder / f"few-{dist.get_rank()}.ckpt"
    torch.save(checkpoint, file)
    torch.save(error_of("fsdp2_file", folder, file), folder / f"error-{dist.get_rank()}.pt")


def fails(folder: Path) -> None:
    """Train where ranks cannot agree; each rank leaves the error."""
    errors = {}
    with patch("hardneg_plugin.plugin.rank_agreement.average_gradients"):
        errors["not averaged"] = error_of("fsdp2_folder", folder)
    errors["one batch for two ranks"] = error_of("tensor_parallel", folder)
    torch.save(errors, f"{folder}/errors-{dist.get_rank()}.pt")


def error_of(strategy: str, folder: Path, ckpt: Path | None = None) -> str:
    """The error of a training, or none."""
    try:
        fit(strategy, folder, "failed", host(1.0), ckpt=ckpt)
    except UserError as error:
        return str(error)
    return ""


def on_ranks(strategies: list[str], folder: Path) -> None:
    """Run `fits` of strategies of one kind: one start of processes for all of them."""
    starts = strategies[0] in STARTS_RANKS
    start_processes(_rank, (strategies, str(folder)), nprocs=1 if starts else 2, start_method="forkserver")


def _rank(rank: int, strategies: list[str], folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if strategies[0] not in STARTS_RANKS:
        surroundings = {"LOCAL_RANK": rank, "RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in surroundings.items()})
        os.environ["MASTER_PORT"] = "0"  # unused: the group is there already
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for strategy in strategies:
        (Path(folder) / strategy).mkdir(exist_ok=True)
        fits(strategy, Path(folder) / strategy)
