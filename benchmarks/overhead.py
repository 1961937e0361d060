"""What the in-batch objective adds to a training step: time of the plugged-in step over the bare host's, pair by pair.

Both models start from the same weights and see the same batch; their steps alternate in one run, so that a slow spell of the
machine falls on both. Prints a table and a JSON line.

    python benchmarks/step.py                    # a ResNet-101 at 224 px, two views, the released decoder sizes
    python benchmarks/step.py --size phantom     # what the demo trains
"""

import argparse
import json
import statistics
import time

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.generator import HardNegativeReportGenerator, ReportGenerator
from hardneg_plugin.schedule import Progress

SIZES = {
    "released": {
        "overrides": ["visual=resnet101", "backbone=transformer", "backbone.max_patches=null"],
        "studies": 16,
        "views": 2,
        "pixels": 224,
        "words": 60,
        "vocabulary": 760,
    },
    "phantom": {"overrides": [], "studies": 16, "views": 2, "pixels": 128, "words": 50, "vocabulary": 160},
}


def made_batch(studies: int, views: int, pixels: int, words: int, vocabulary: int) -> Batch:
    tokens = torch.randint(1, vocabulary + 1, (studies, words))
    tokens[:, 0] = tokens[:, -1] = 0
    return Batch(
        ids=[str(i) for i in range(studies)],
        images=torch.randint(256, (studies, views, 1, pixels, pixels), dtype=torch.uint8),
        view_mask=torch.ones(studies, views, dtype=torch.bool),
        tokens=tokens,
        token_mask=torch.ones(studies, words, dtype=torch.bool),
        references=[""] * studies,
        cut_references=[""] * studies,
        match_keys=torch.arange(4 * studies).reshape(studies, 4),
    )


def build(overrides: list[str], vocabulary: int) -> ReportGenerator:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*overrides, "metrics.caption=null"])
    torch.manual_seed(0)
    words = ("<unk>", *(f"w{i:05d}" for i in range(vocabulary - 1)))
    return instantiate(config.model, _partial_=True)(tokenizer=WordTokenizer(words))


def step(model: ReportGenerator, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward and update, without the trainer around them, which is the same for both."""
    outputs = model._teacher_forced(batch)
    loss: Tensor = outputs["loss"]
    if isinstance(model, HardNegativeReportGenerator):
        objective = model.hard_negatives
        terms = objective(model.embed(batch, outputs), Progress(step=50, epoch=5, fraction=0.5))
        weights = objective.weights
        loss = (
            weights.report * loss
            + weights.alignment * terms.alignment_loss
            + weights.separation * terms.separation_loss
        )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def seconds_of(model: ReportGenerator, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    start = time.perf_counter()
    step(model, batch, optimizer)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="released")
    parser.add_argument("--pairs", type=int, default=7, help="measured pairs of steps, after two that are not counted")
    arguments = parser.parse_args()
    size = dict(SIZES[arguments.size])
    overrides = size.pop("overrides")
    batch = made_batch(**size)
    variants = {
        "host": ["model=host"],
        "decoder_states": ["model=hard_negatives", "model.report_feature=decoder_states"],
        "text_only": ["model=hard_negatives", "model.report_feature=text_only"],
    }
    models = {name: build([*overrides, *more], size["vocabulary"]).train() for name, more in variants.items()}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-5) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(models)
    for turn in range(arguments.pairs + 2):
        # each in turn first: what ran before leaves caches and memory as it likes
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(seconds_of(models[name], batch, optimizers[name]))
    seconds = {name: values[2:] for name, values in seconds.items()}
    ratios = {
        name: [a / b for a, b in zip(values, seconds["host"], strict=True)]
        for name, values in seconds.items()
        if name != "host"
    }
    print(f"{arguments.size} size, {torch.get_num_threads()} threads, {arguments.pairs} pairs; medians (min - max)")
    print(f"{'':16} {'seconds per step':>26} {'over the host':>26}")
    for name, values in seconds.items():
        cells = [_cell(values), _cell(ratios[name]) if name in ratios else ""]
        print(f"{name:16} {cells[0]:>26} {cells[1]:>26}")
    print(
        json.dumps(
            {
                "size": arguments.size,
                "seconds": {name: statistics.median(values) for name, values in seconds.items()},
                "ratio": {name: statistics.median(values) for name, values in ratios.items()},
            }
        )
    )


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


if __name__ == "__main__":
    main()
