"""Two processes that train by the Trainer under DDP; of its own, for started processes to import."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

sys.path.append(str(Path(__file__).parent))
from tiny_generator import STRATEGY, Generator, MeanGenerator, of_strategy, trainer, weights, with_negatives

CASES = {"shares": (Generator, 1), "means": (MeanGenerator, 1), "accumulated shares": (Generator, 2)}


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
    for name in ("queue", "bank"):
        one = with_negatives(name, f"{folder}/{name}", 2)
        one.train()
        found[name] = weights(one), one.state.log_history
    for name in STRATEGY:
        found[name] = of_strategy(name, folder, 2)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
