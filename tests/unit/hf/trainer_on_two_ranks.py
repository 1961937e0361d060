"""Two processes that train by the Trainer under DDP; of its own, for started processes to import."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from transformers.distributed import DistributedConfig

from hardneg_plugin.distributed import is_shard
from hardneg_plugin.errors import UserError

sys.path.append(str(Path(__file__).parent))
from tiny_generator import (
    STRATEGY,
    Generator,
    MeanGenerator,
    Streamed,
    generator,
    of_strategy,
    trainer,
    weights,
    with_negatives,
)

CASES = {"shares": (Generator, 1), "means": (MeanGenerator, 1), "accumulated shares": (Generator, 2)}
CHUNKS = {"chunks": 1, "accumulated chunks": 2}
"""The accumulated batches of trainings in two parts, with `Generator`."""
SHARDED = {"sharded": (1, 1), "sharded, accumulated": (2, 1), "sharded, chunks": (1, 2)}
"""The accumulated batches, and the parts of each."""
PLAN = {"image": "free_full_weight", "words": "free_full_weight", "head": "keep_full_weight"}


def trained_on_two_ranks(folder, port):
    """By rank and case: weights and logs."""
    start_processes(_rank, (str(folder), port), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _rank(rank, folder, port):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found = {}
    for name, (kind, accumulated) in CASES.items():
        one = trainer(f"{folder}/{name}", kind, per_device_train_batch_size=2, gradient_accumulation_steps=accumulated)
        if rank:  # another start: the values of rank 0 count
            torch.nn.init.zeros_(one.hard_negatives.image_head.weight)
        one.train()
        found[name] = weights(one), one.state.log_history
    for name in ("queue", "bank", "sharded bank"):
        one = with_negatives(name, f"{folder}/{name}", 2)
        one.train()
        found[name] = weights(one), one.state.log_history
    for name, accumulated in CHUNKS.items():
        one = trainer(
            f"{folder}/{name}",
            plugged={"chunks": 2},
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulated,
        )
        one.train()
        found[name] = weights(one), one.state.log_history
    for name, (accumulated, chunks) in SHARDED.items():
        found[name] = _sharded(f"{folder}/bare", accumulated, chunks)
    found["fsdp2"] = {
        name: of_strategy(name, f"{folder}/fsdp2", 2, lambda: _loaded(f"{folder}/bare"))
        for name in STRATEGY
        if name != "resumed"
    }
    found["streamed"] = _streamed(f"{folder}/streamed")
    found["refused"] = {name: _refusal(f"{folder}/refused", *asked) for name, asked in _asked(folder).items()}
    for name in STRATEGY:
        found[name] = of_strategy(name, folder, 2)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _save_bare(folder):
    if dist.get_rank() == 0:
        generator().save_pretrained(folder)
    dist.barrier()


def _sharded(folder, accumulated, chunks):
    """By FSDP2, as transformers loads a model."""
    _save_bare(folder)
    one = trainer(
        folder,
        plugged={"model": _loaded(folder), "chunks": chunks},
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulated,
        max_grad_norm=0.5,
    )
    one.train()
    assert all(is_shard(parameter) for parameter in one.model.parameters())
    return weights(one), one.state.log_history


def _loaded(folder):
    return Generator.from_pretrained(folder, distributed_config=DistributedConfig(fsdp_size=2, fsdp_plan=PLAN))


def _streamed(folder):
    one = trainer(folder, plugged={"train_dataset": Streamed()}, per_device_train_batch_size=2)
    one.train()
    return weights(one), one.state.log_history


def _asked(folder):
    """Ways to ask for what is refused: arguments, of the environment, and the model."""
    by_hand = generator()
    fully_shard(by_hand)
    config = DistributedConfig(dp_replicate_size=2, fsdp_plan=PLAN)
    return {
        "fsdp": ({"fsdp": True}, {}, None),
        "full_shard": ({"fsdp": "full_shard"}, {}, None),
        "accelerate": ({}, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, None),
        "fully_shard": ({}, {}, by_hand),
        "replicas": ({}, {}, Generator.from_pretrained(f"{folder}/bare", distributed_config=config)),
    }


def _refusal(folder, arguments, environment, model):
    os.environ |= environment
    try:
        trainer(folder, plugged={"model": model or generator()}, **arguments)
    except UserError as error:
        return str(error)
    finally:
        for name in environment:
            del os.environ[name]
    return "trained"
