"""Studies per second of the data loader by its number of workers, from a store as hardneg-prepare writes it.

Made images of 256 pixels, two views, random crops of 224, batches on their way to the device; the part `speed_16` says what
a step takes.
"""

import os
import sys
import tempfile
import time
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpu_parts.part import Rows, Setting
from gpu_parts.steps import on
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.data.tokenizer import WordTokenizer

FILES = 8
"""Pictures, which the studies share."""


def run(setting: Setting, rows: Rows) -> None:
    """One row for each number of workers."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        studies = 16 if setting.tiny else 512
        with rows.row("store") as row:
            source = _store(root, studies)
            row["studies"] = studies
        cores = len(os.sched_getaffinity(0))
        numbers = (0, 1) if setting.tiny else tuple(n for n in (0, 1, 2, 4, 8, 16) if n <= max(1, cores))
        for workers in numbers:
            if setting.left() < 5:
                return
            with rows.row(f"{workers} workers") as row:
                row["studies_per_s"] = _rate(source, workers, setting)
                row["cores"] = cores


def _store(root: Path, studies: int) -> PreparedStudies:
    draw = np.random.default_rng(0)
    files = []
    for index in range(FILES):
        coarse = Image.fromarray((255 * draw.random((12, 10))).astype(np.uint8)).resize(
            (384, 448), Image.Resampling.BICUBIC
        )
        grain = draw.normal(0, 2, (448, 384))
        files.append(root / f"{index}.png")
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(files[-1])

    class Made:
        def __len__(self) -> int:
            return studies

        def __iter__(self) -> Any:
            for index in range(studies):
                split = SPLITS[index] if index < len(SPLITS) else "train"
                views = files[index % FILES], files[(index + 1) % FILES]
                yield OriginalStudy(str(index), views, findings="No acute disease. Heart size is normal.", split=split)

    build(Made(), root / "store", PrepareSettings(size=256))  # type: ignore[arg-type]
    return PreparedStudies(root / "store")


def _rate(source: PreparedStudies, workers: int, setting: Setting) -> float:
    batch = min(setting.studies, 16)
    data = StudyDataModule(
        source,
        WordTokenizer.from_reports,
        batch_size=batch,
        max_length=60,
        num_workers=workers,
        pin_memory=setting.is_cuda,
    )
    loader = data.train_dataloader()
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch, by the same workers
    for one in islice(batches, 2 if setting.tiny else 2 * max(2, workers)):
        on(setting.device, one)
    start, done, seconds = time.perf_counter(), 0, 0.2 if setting.tiny else 2.0
    for one in batches:
        on(setting.device, one)
        done += len(one["ids"])
        if time.perf_counter() - start > seconds:
            break
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit("Run benchmarks/gpu.py --parts loader")
