"""What a training is about to do, in a dozen lines: data, model, method, steps, and where the run goes."""

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from hardneg_plugin.data.coverage import coverage
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.file_source import FileSplit
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.objectives.method_in_words import method_in_words

LABEL = 12
"""Columns of the labels on the left."""
WIDTH = 110
"""Columns in all."""

Lines = list[tuple[str, str]]


def startup_summary(
    config: DictConfig, data: StudyDataModule, model: StudyModel[Any], trainer: pl.Trainer, folder: str
) -> str:
    """The lines that hardneg-train prints before it begins, also readable in a log: no colours, no bars.

    Args:
        config: of the training.
        data: its data.
        model: its model.
        trainer: its trainer; it knows device, precision and processes.
        folder: where the run goes.
    """
    lines = [
        *_data_lines(config, data),
        *_model_lines(model),
        *_step_lines(config, data, model, trainer),
        ("best.ckpt", f"by {config.monitor}"),
    ]
    # a log has no width of its own; the path is not broken, so that it can be copied
    wrapped = [fill(f"{label:{LABEL}}{text}", WIDTH, subsequent_indent=" " * LABEL) for label, text in lines]
    return "\n".join([*wrapped, f"{'run':{LABEL}}{folder}"])


def count_parameters(model: StudyModel[Any]) -> dict[str, int]:
    """The numbers of parameters: those of inference, and those that exist in training only."""
    counts = {"inference": 0, "training_only": 0}
    for name, parameter in model.named_parameters():
        counts["training_only" if name.startswith("hard_negatives.") else "inference"] += parameter.numel()
    return counts


def steps_per_epoch(trainer: pl.Trainer, studies: int, batch_size: int) -> int:
    """The optimizer steps of an epoch, the same on all processes.

    Args:
        trainer: knows processes, accumulation and limits.
        studies: of the training split.
        batch_size: studies per batch, per process.
    """
    batches = math.ceil(math.ceil(studies / trainer.world_size) / batch_size)
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return math.ceil(batches / trainer.accumulate_grad_batches)


def total_steps(trainer: pl.Trainer, per_epoch: int) -> int | None:
    """The optimizer steps of the whole training; None where it has no end.

    Args:
        trainer: knows its limits.
        per_epoch: steps of an epoch.
    """
    ends = []
    if trainer.max_epochs not in (None, -1):
        ends.append(per_epoch * int(trainer.max_epochs or 0))
    if trainer.max_steps != -1:
        ends.append(trainer.max_steps)
    return min(ends, default=None)


def device_in_words(trainer: pl.Trainer) -> str:
    """Where a trainer computes, such as "2 processes, cpu" or "1 process, cuda (NVIDIA H100)"."""
    device = trainer.strategy.root_device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{_counted(trainer.world_size, 'process', 'processes')}, {device.type}{name}"


def _data_lines(config: DictConfig, data: StudyDataModule) -> Lines:
    splits = {name: data.source.split(name) for name in SPLITS}
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    lines = [("data", f"{type(data.source).__name__}: {sizes}; {_views(splits)}")]
    shares = {
        name: coverage(split.reports, data.tokenizer, config.data.max_length)
        for name, split in splits.items()
        if len(split)
    }
    kind = "words" if isinstance(data.tokenizer, WordTokenizer) else "tokens"
    if (least := config.data.get("min_count")) is not None and kind == "words":
        kind = f"words seen {least} times or more"
    unknown = [f"{share.unknown:.1%} {name}" for name, share in shares.items() if share.unknown is not None]
    told = f"; unknown, of all words: {', '.join(unknown)}" if unknown else ""
    lines.append(("vocabulary", f"{data.tokenizer.vocab_size:,} {kind}{told}"))
    cut = ", ".join(f"{share.cut:.1%} {name}" for name, share in shares.items())
    some = "" if all(share.reports == len(splits[name]) for name, share in shares.items()) else ", of a sample"
    lines.append(("references", f"cut at {config.data.max_length} tokens (data.max_length): {cut}{some}"))
    return lines


def _views(splits: Any) -> str:
    """Number of views of a study, and the pixels that a model sees."""
    train = splits["train"]
    height, width = train[0]["images"].shape[-2:]
    if isinstance(train, FileSplit):
        counts: Sequence[int] = [count for split in splits.values() for count in split.view_counts]
        low, high = min(counts), max(counts)
        views = f"{sum(counts):,} images, {low if low == high else f'{low} to {high}'} a study"
    else:
        views = f"{len(train[0]['images'])} views a study"
    return f"{views}, {height} x {width} px"


def _model_lines(model: StudyModel[Any]) -> Lines:
    counts = count_parameters(model)
    of_training = f", {_millions(counts['training_only'])} of them in training only" if counts["training_only"] else ""
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    fixed = f", {_millions(frozen)} frozen" if frozen else ""
    total = _millions(sum(counts.values()))
    return [
        ("model", f"{type(model).__name__}, {total} parameters{of_training}{fixed}"),
        ("method", method_in_words(getattr(model, "hard_negatives", None))),
    ]


def _step_lines(config: DictConfig, data: StudyDataModule, model: StudyModel[Any], trainer: pl.Trainer) -> Lines:
    size = config.data.datamodule.batch_size
    processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    factors = [str(size)]
    factors += [f"{processes} processes"] if processes > 1 else []
    factors += [f"{accumulated} accumulated"] if accumulated > 1 else []
    product = f" ({' x '.join(factors)})" if len(factors) > 1 else ""
    contrast = ""
    if getattr(model, "hard_negatives", None) is not None:
        contrast = (
            f"; contrast over {size * processes} of them" if accumulated > 1 else f"; contrast over {size * processes}"
        )
    studies = len(data.source.split("train"))
    per_epoch = steps_per_epoch(trainer, studies, size)
    total = total_steps(trainer, per_epoch)
    planned = f"{total:,}, {per_epoch:,} an epoch" if total is not None else f"{per_epoch:,} an epoch, without an end"
    return [
        ("device", f"{device_in_words(trainer)}, precision {trainer.precision}"),
        ("batch", f"{size * processes * accumulated} studies a step{product}{contrast}"),
        ("steps", planned),
    ]


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
