"""The code blocks of docs/HOSTS.md and docs/RECIPES.md, run as their reader would run them, in one process or in two."""

import os
import re
import socket
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.multiprocessing import start_processes

import hardneg_plugin
from hardneg_plugin.objectives.schedule import Constant

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import Captioner, loader

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEXT = "\n".join((DOCS / name).read_text() for name in ("HOSTS.md", "RECIPES.md"))


def blocks():
    """By heading, the Python blocks under it, in their order."""
    found = {}
    # within code, a # begins no heading
    text = re.sub(r"^```python\n.*?^```", lambda code: code[0].replace("#", "\0"), TEXT, flags=re.M | re.S)
    for heading, body in re.findall(r"^#+ (.+?)\n(.*?)(?=^#+ |\Z)", text, re.M | re.S):
        code = re.findall(r"^```python\n(.*?)^```", body, re.M | re.S)
        if code:
            found[heading] = [block.replace("\0", "#") for block in code]
    return found


def run(heading, *numbers, **names):
    """Run blocks under a heading, and return the names that there are afterwards.

    Args:
        heading: of the blocks.
        numbers: of the blocks, from 0; none: all.
        names: what the blocks take for granted beside the public names of the package.
    """
    names = {**vars(hardneg_plugin), **names}
    code = blocks()[heading]
    for number in numbers or range(len(code)):
        exec(compile(code[number], heading, "exec"), names)
    return names


class Loop(nn.Module):
    """A host of a loop by hand: returns its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.decoder = nn.Linear(4, 16), nn.ModuleDict(Captioner(width=16).decoder)

    def forward(self, batch):
        states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        return {"loss": (self.encoder(batch["images"]).mean(1) - states.mean(1)).square().mean()}


def loop_by_hand(batch_size):
    """Weights of the host and the objective after the loop of the document, on 16 studies."""
    torch.manual_seed(5)
    objective = hardneg_plugin.HardNegativeObjective(
        image_width=16, report_width=16, width=8, schedule=Constant(hardness=0.5)
    )
    model = Loop()
    with patch.dict(os.environ, ACCELERATE_USE_CPU="true"):
        run("accelerate, or a loop by hand", model=model, objective=objective, loader=loader(batch_size=batch_size))
    return {**model.state_dict(), **objective.state_dict(prefix="objective.")}


def loop_in_two_processes(folder):
    """What `loop_by_hand` leaves on each of two ranks that share a step's batch of 8.

    Args:
        folder: an empty one.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start_processes(_rank, (str(folder), port), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _rank(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    of_torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in of_torchrun.items()})
    torch.save(loop_by_hand(batch_size=4), f"{folder}/{rank}.pt")
