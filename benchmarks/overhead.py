"""What the plug-in adds to a training step: time and peak memory over the bare host's, by where hard negatives come from.

All models start from the same weights and see the same batch; their steps take turns in one run, so that a slow spell of the
machine falls on all of them (all models take some 30 GiB; `--variants` chooses). Queue and bank are full. Memory is that of
a fresh process for each: what building the model and three steps add, at their peak. Then the objective alone, forward and
backward, over batch and queue sizes. Prints tables and a JSON line.

    python benchmarks/overhead.py                    # a ResNet-101 at 224 px, two views, the released decoder sizes
    python benchmarks/overhead.py --size phantom     # what the demo trains
    python benchmarks/overhead.py --size phantom --studies 16 32 64 128 --variants reclf "reclf, chunk 16" gk_mvlp --no-objective
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import Bank, InBatch, Queue
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.objectives.weighted_terms import total_loss

KEPT = 16_384
"""Studies in queue and bank."""
SIZES: dict[str, dict[str, Any]] = {
    "released": {
        "overrides": ["visual=resnet101", "backbone=transformer", "backbone.max_patches=null"],
        "batch": {"studies": 16, "views": 2, "pixels": 224, "words": 60, "vocabulary": 760},
    },
    "phantom": {
        "overrides": [],
        "batch": {"studies": 16, "views": 2, "pixels": 96, "words": 50, "vocabulary": 160},
    },
}
VARIANTS = {
    "host": ["model=host"],
    "in_batch": [],
    "queue": ["negatives=queue", f"negatives.size={KEPT}"],
    "bank": ["negatives=bank"],
    "paired": ["negatives=paired", "data.paired.table=unused"],
    "in_batch, text_only": ["model.report_feature=text_only"],
    "token weights by image": ["token_weights=by_image"],
    "... hardened": ["token_weights=by_image", "token_weights.hardened=true"],
    "token weights by text": ["token_weights=by_text"],
    "likelihood margin": ["likelihood_margin=softplus"],
    "reclf": ["objective=reclf"],
    "reclf, chunk 16": ["objective=reclf", "objective.chunk=16"],
    "reclf, one chunk": ["objective=reclf", "objective.chunk=128"],
    "reclf, 256 wide": ["objective=reclf", "objective.word_region_width=256"],
    "gk_mvlp": ["objective=gk_mvlp"],
}
BATCHES, QUEUES = (16, 64, 256, 1024), (0, 4_096, 16_384, 65_536)
MIB = 2**20


def made_batch(studies: int, views: int, pixels: int, words: int, vocabulary: int, first: int = 0) -> Batch:
    tokens = torch.randint(1, vocabulary + 1, (studies, words))
    tokens[:, 0] = tokens[:, -1] = 0
    return Batch(
        ids=[str(first + i) for i in range(studies)],
        images=torch.randint(256, (studies, views, 1, pixels, pixels), dtype=torch.uint8),
        view_mask=torch.ones(studies, views, dtype=torch.bool),
        tokens=tokens,
        token_mask=torch.ones(studies, words, dtype=torch.bool),
        references=[""] * studies,
        cut_references=[""] * studies,
        match_keys=keys_of(torch.arange(first, first + studies)),
    )


def keys_of(studies: Tensor) -> Tensor:
    """Match keys of which only the study's is known."""
    return torch.stack([studies, *[torch.full_like(studies, -1)] * 3], dim=1)


def filled(objective: HardNegativeObjective, width: int) -> None:
    """Fill a queue or a bank with studies that no batch holds, but for the bank's own."""
    source = objective.negatives
    embeddings = [normalize(torch.randn(KEPT, width), dim=-1) for _ in range(2)]
    if isinstance(source, Queue):
        source.queue.push(embeddings[0], embeddings[1], keys_of(torch.arange(1_000, 1_000 + KEPT)))
    elif isinstance(source, Bank):
        source.bank.write(torch.arange(KEPT), keys_of(torch.arange(KEPT)), *embeddings)


class Step:
    """Forward, backward and update of one variant, without the trainer around them, which is the same for all."""

    def __init__(self, size: str, variant: str, studies: int) -> None:
        torch.manual_seed(0)
        settings = SIZES[size] | {"batch": {**SIZES[size]["batch"], "studies": studies}}
        vocabulary = settings["batch"]["vocabulary"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", [*settings["overrides"], *VARIANTS[variant], "metrics.caption=null"])
        words = ("<unk>", *(f"w{i:05d}" for i in range(vocabulary - 1)))
        self.model: ReportGenerator = instantiate(config.model, _partial_=True)(tokenizer=WordTokenizer(words)).train()
        if isinstance(self.model, HardNegativeReportGenerator):
            filled(self.model.hard_negatives, config.model.hard_negatives.width)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.batch = made_batch(**settings["batch"])
        if variant == "paired":
            self.batch["negatives"] = made_batch(**settings["batch"], first=500)
        if variant == "gk_mvlp":
            prompts = len(self.model.hard_negatives.prompts)
            self.batch["facts"] = torch.randint(0, 2, (studies, prompts))
        self.done = 0

    def __call__(self) -> None:
        self.done += 1
        outputs = self.model._teacher_forced(self.batch)
        loss: Tensor = outputs["loss"]
        if isinstance(self.model, HardNegativeReportGenerator):
            objective = self.model.hard_negatives
            # the bank looks for neighbours once, at its second step, which is not counted
            progress = TrainingProgress(step=self.done, epoch=min(self.done - 1, 1), fraction=0.5)
            pairs, statements = self.model.embed(self.batch, outputs), self.model.embed_statements(self.batch, outputs)
            given: dict[str, Any] = {} if statements is None else {"statements": statements}
            if objective.reads_reports:
                given["read"] = partial(self.model.token_losses, self.batch, outputs)
            loss = total_loss(objective.weights, loss, objective(pairs, progress, **given))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def seconds_of(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_bytes() -> int:
    # not resource.getrusage, whose peak a new process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def memory_of(size: str, variant: str, studies: int) -> float:
    """MiB that the model and three of its steps add to the process at their peak."""
    before = peak_bytes()
    step = Step(size, variant, studies)
    for _ in range(3):
        step()
    return (peak_bytes() - before) / MIB


def objective_seconds(studies: int, queue: int, repeats: int = 5, width: int = 256) -> float:
    """Median seconds of the objective alone, forward and backward, with heads from 2,048 and 512 to `width`."""
    torch.manual_seed(0)
    objective = HardNegativeObjective(
        negatives=Queue(size=queue) if queue else InBatch(), image_width=2048, report_width=512, width=width
    )
    if isinstance(objective.negatives, Queue):
        embeddings = [normalize(torch.randn(queue, width), dim=-1) for _ in range(2)]
        objective.negatives.queue.push(embeddings[0], embeddings[1], keys_of(torch.arange(10_000, 10_000 + queue)))
    images = torch.randn(studies, 2048, requires_grad=True)
    reports = torch.randn(studies, 512, requires_grad=True)

    def call() -> None:
        terms = objective(
            PairEmbeddings(images, reports, study_ids=torch.arange(studies)), TrainingProgress(fraction=0.5)
        )
        (terms.alignment_loss + terms.separation_loss).backward()

    call()
    return statistics.median(seconds_of(call) for _ in range(repeats))


def objective_alone() -> dict[int, dict[int, float]]:
    """Seconds by queue and batch, printed as a table."""
    alone = {queue: {studies: objective_seconds(studies, queue) for studies in BATCHES} for queue in QUEUES}
    print(
        "\nThe objective alone, forward and backward, width 256: milliseconds by studies in the batch and in the queue"
    )
    print(f"{'queue':>8}" + "".join(f"{studies:>10}" for studies in BATCHES))
    for queue, row in alone.items():
        print(f"{queue:8}" + "".join(f"{1000 * value:10.1f}" for value in row.values()))
    return alone


def measure(size: str, studies: int, names: list[str], turns: int) -> dict[str, Any]:
    """Seconds and memory of each variant's step at a batch size, printed as a table."""
    memory = {}
    for name in tqdm(names, desc="memory"):  # first, while this process is small itself
        command = [sys.executable, __file__, "--size", size, "--memory-of", name, "--studies", str(studies)]
        memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    steps = {name: Step(size, name, studies) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in tqdm(range(turns + 2), desc="turns"):
        # each in turn first: what ran before leaves caches and memory as it likes
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(seconds_of(steps[name]))
    seconds = {name: values[2:] for name, values in seconds.items()}
    ratios = {name: [a / b for a, b in zip(values, seconds["host"], strict=True)] for name, values in seconds.items()}
    threads = f"{torch.get_num_threads()} threads"
    print(f"\n{size} size, {studies} studies, {threads}, {turns} turns; medians (min - max)")
    print(f"{'':20} {'seconds per step':>26} {'over the host':>26} {'peak MiB':>9} {'over the host':>14}")
    for name, values in seconds.items():
        over = memory[name] / memory["host"]
        cells = f"{_cell(values):>26} {_cell(ratios[name]):>26}"
        print(f"{name:20} {cells} {memory[name]:9.0f} {over:14.3f}", flush=True)
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "time_ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "peak_mib": memory,
        "memory_ratio": {name: value / memory["host"] for name, value in memory.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="released")
    parser.add_argument("--studies", type=int, nargs="+", default=[16], help="of a batch; several: one table for each")
    parser.add_argument("--no-objective", action="store_true", help="leave out the objective alone")
    parser.add_argument("--turns", type=int, default=7, help="measured steps of each, after two that are not counted")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_of(arguments.size, arguments.memory_of, arguments.studies[0]))
        return
    names = ["host", *(name for name in arguments.variants if name != "host")]
    by_studies = {studies: measure(arguments.size, studies, names, arguments.turns) for studies in arguments.studies}
    alone = {} if arguments.no_objective else objective_alone()
    result = {"size": arguments.size, "by_studies": by_studies, "objective_seconds": alone}
    print(json.dumps({"benchmark": "overhead", **result}))


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


if __name__ == "__main__":
    main()
