"""A training step at released sizes, forward and backward: seconds, distance from the matrix products alone, memory.

16 studies of 98 patches, 60 words, decoder only, random weights, with dropout, 2 threads. Memory is that of a fresh process
for each decoder: what the first step adds at its peak to a process that holds the decoder and the batch.

    python benchmarks/train_step.py [--repeats 5] [--decoders r2gen r2gencmn]
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from released_sizes import DECODERS, HEADER, STUDIES, THREADS, VOCABULARY, WORDS, against_floor, make, row
from torch import Tensor

from hardneg_plugin.functional.likelihood import mean_token_loss, token_losses

RELEASED_SECONDS = {"r2gen": 4.2, "r2gencmn": 13.3}
"""The released code with two cores of the same kind."""
MIB = 2**20


class Step:
    """Forward and backward of one decoder on one batch."""

    def __init__(self, name: str) -> None:
        self.decoder, self.patches = make(name)
        self.decoder.train()
        self.tokens = torch.randint(1, VOCABULARY + 1, (STUDIES, WORDS))
        self.tokens[:, 0] = self.tokens[:, -1] = 0

    def __call__(self) -> None:
        self.decoder.zero_grad()
        self.loss().backward()

    def loss(self) -> Tensor:
        mask = torch.ones(STUDIES, WORDS, dtype=torch.bool)
        read = token_losses(self.decoder.log_probs(self.patches, self.tokens), self.tokens, mask)
        return mean_token_loss(read.losses, read.mask)


def memory_of(name: str) -> dict[str, float]:
    """MiB of parameters, of what the forward pass keeps for the backward pass, and of the peak of a step above its start."""
    torch.set_num_threads(THREADS)
    step = Step(name)
    parameters = sum(p.numel() * p.element_size() for p in step.decoder.parameters())
    before = _peak_bytes()
    step()
    peak = _peak_bytes() - before

    own = {p.untyped_storage().data_ptr() for p in step.decoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.loss()
    largest = max(kept.values())
    del loss
    return {
        "parameters_mib": parameters / MIB,
        "kept_for_backward_mib": sum(kept.values()) / MIB,
        "largest_kept_mib": largest / MIB,
        "peak_mib": peak / MIB,
    }


def _peak_bytes() -> int:
    # not resource.getrusage, whose peak a new process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--memory-of", choices=DECODERS, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.memory_of)))
        return
    print(f"{STUDIES} studies, {WORDS} words, {THREADS} threads; medians of {arguments.repeats}")
    print(HEADER)
    torch.set_num_threads(THREADS)
    results = {}
    for name in arguments.decoders:
        results[name] = r = against_floor(Step(name), arguments.repeats, RELEASED_SECONDS.get(name))
        print(row(name, r))
    print(f"\n{'MiB':12} {'parameters':>11} {'kept for backward':>18} {'largest kept':>13} {'peak of a step':>15}")
    for name in arguments.decoders:
        command = [sys.executable, __file__, "--memory-of", name]
        memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results[name] |= memory
        print(f"{name:12} " + " ".join(f"{memory[key]:{width}.0f}" for key, width in _COLUMNS.items()))
    print(
        "What bounds the peak is what the forward pass keeps: attention weights, dropout masks and activations of encoder and\n"
        "decoder, to which gradients as large as the parameters come. R2GenCMN's scores of all memory rows (8 heads x 1,568\n"
        "patches x 2,048 rows, 98 MiB) exist for a moment in either pass; kept are the 32 best of each."
    )
    print(json.dumps({"benchmark": "train_step", **results}))


_COLUMNS = {"parameters_mib": 11, "kept_for_backward_mib": 18, "largest_kept_mib": 13, "peak_mib": 15}


if __name__ == "__main__":
    main()
