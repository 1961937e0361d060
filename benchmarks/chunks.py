"""What `chunks=N` costs and saves: time, peak memory and the difference of the gradient, against the unsplit step.

The host is shaped like a language model with an image prefix: a transformer over patches, and a causal transformer over patches
and tokens, with dropout 0. All numbers of chunks start from the same weights and see the same batch; their steps, forward and
backward, take turns in one run. Memory is the peak of the bytes in tensors that a step makes and that are alive at once: its
activations, and the gradients of the weights, which do not get less. Studies through the encoder tell how often a forward ran.

    python benchmarks/chunks.py
    python benchmarks/chunks.py --device cuda --studies 64 --width 1024 --layers 12
"""

import argparse
import json
import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.objectives.schedule import TrainingProgress

CHUNKS = (1, 2, 4, 8)
MIB = 2**20


class Host(pl.LightningModule):
    """A report generator that knows nothing of hard negatives."""

    def __init__(self, width: int, layers: int, vocabulary: int = 500) -> None:
        super().__init__()

        def stack() -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

        self.patches = nn.Linear(192, width)
        self.encoder = stack()
        self.words = nn.Embedding(vocabulary, width)
        self.decoder = stack()
        self.classify = nn.Linear(width, vocabulary)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean over studies of the mean over tokens."""
        patches = self.encoder(self.patches(batch["images"]))
        inputs = torch.cat([patches, self.words(batch["tokens"])], dim=1)
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1], device=inputs.device)
        states = self.decoder(inputs, mask=mask, is_causal=True)[:, patches.shape[1] : -1]
        logits = self.classify(states)
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten())


class Alive(TorchDispatchMode):
    """The peak of the bytes in tensors that are made while it is on and alive at once.

    >>> with Alive() as alive:
    ...     total = (torch.ones(256) + 1).sum()
    >>> alive.peak  # of float32: ones, and ones + 1
    2048
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return out


class Step:
    """Forward and backward of one batch with a number of chunks."""

    def __init__(self, chunks: int, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        objective = HardNegativeObjective(
            image_width=arguments.width, report_width=arguments.width, width=256, centred=False
        )
        places = {"images": "encoder", "reports": "words", "study_ids": "batch.id"}
        self.model = plug_in(Host(arguments.width, arguments.layers), objective, **places, chunks=chunks)
        # what needs a trainer
        vars(self.model)["_progress"] = lambda: TrainingProgress(step=1, epoch=1, fraction=0.5)
        vars(self.model)["log"] = lambda *args, **options: None
        self.model.to(arguments.device)
        torch.manual_seed(1)
        self.batch = {
            "id": torch.arange(arguments.studies),
            "images": torch.randn(arguments.studies, arguments.patches, 192),
            "tokens": torch.randint(500, (arguments.studies, arguments.tokens)),
        }
        self.batch = {key: value.to(arguments.device) for key, value in self.batch.items()}
        self.is_cuda = torch.device(arguments.device).type == "cuda"

    def __call__(self) -> float:
        """Seconds."""
        self.model.zero_grad()
        self._wait()
        start = time.perf_counter()
        self.model.training_step(self.batch, 0).backward()
        self._wait()
        return time.perf_counter() - start

    def peak(self) -> int:
        """Bytes."""
        self.model.zero_grad()
        if not self.is_cuda:
            with Alive() as alive:
                self()
            return int(alive.peak)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self()
        return int(torch.cuda.max_memory_allocated() - before)

    def studies_encoded(self) -> int:
        """Over forward and backward."""
        seen: list[int] = []
        handle = self.model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        self()
        handle.remove()
        return sum(seen)

    def gradients(self) -> list[Tensor]:
        """By parameter."""
        self()
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3, help="of encoder and of decoder")
    parser.add_argument("--patches", type=int, default=49)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--turns", type=int, default=7, help="measured steps of each, after two that are not counted")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    steps = {chunks: Step(chunks, arguments) for chunks in CHUNKS}
    unsplit = steps[1].gradients()
    largest = max(gradient.abs().max().item() for gradient in unsplit)
    rows: dict[int, dict[str, float]] = {}
    for chunks, step in steps.items():
        differences = [(a - b).abs().max().item() for a, b in zip(step.gradients(), unsplit, strict=True)]
        rows[chunks] = {"difference": max(differences), "peak": step.peak(), "encoded": step.studies_encoded()}
    seconds: dict[int, list[float]] = {chunks: [] for chunks in CHUNKS}
    for turn in tqdm(range(arguments.turns + 2), desc="turns"):
        first = turn % len(CHUNKS)
        for chunks in CHUNKS[first:] + CHUNKS[:first]:
            seconds[chunks].append(steps[chunks]())
    size = f"{arguments.studies} studies, width {arguments.width}, {arguments.layers} layers"
    print(f"{size}, {torch.get_num_threads()} threads, {arguments.device}, {arguments.turns} turns")
    print(f"largest gradient {largest:.3g}")
    print(
        f"{'chunks':>7}{'seconds':>10}{'ratio (min - max)':>24}{'peak MiB':>10}{'ratio':>8}{'encoded':>9}{'difference':>12}"
    )
    for chunks, row in rows.items():
        ratios = [a / b for a, b in zip(seconds[chunks][2:], seconds[1][2:], strict=True)]
        row |= {"seconds": statistics.median(seconds[chunks][2:]), "time_ratio": statistics.median(ratios)}
        row |= {"memory_ratio": row["peak"] / rows[1]["peak"]}
        spread = f"{row['time_ratio']:.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(
            f"{chunks:7}{row['seconds']:10.3f}{spread:>24}{row['peak'] / MIB:10.1f}{row['memory_ratio']:8.3f}", end=""
        )
        print(f"{row['encoded']:9.0f}{row['difference']:12.1e}")
    print(
        json.dumps({"benchmark": "chunks", "arguments": vars(arguments), "largest_gradient": largest, "chunks": rows})
    )


if __name__ == "__main__":
    main()
