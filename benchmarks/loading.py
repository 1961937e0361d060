"""What a training sample costs by where its images come from: original files, or the store of hardneg-prepare.

Two views per study, a random crop of 224 of 256 pixels, one worker, that is a process of one thread; samples only, without
collation. Images are made up, in the sizes and depths that originals have: 16-bit PNG and 16-bit DICOM of 12 bits (IU X-Ray),
8-bit JPEG (MIMIC-CXR-JPG); how well they compress is like real ones' roughly (the table says how many bytes a study has). All
are read from the page cache. The kinds take turns, so that a slow spell of the machine falls on all of them; medians over turns.

Then, by calculation: how many workers keep the GPUs of a node busy, and what they read, if a GPU trains so many studies in a
second. Prints a table and a JSON line.

    python benchmarks/loading.py [--gpus 8] [--gpu-studies-per-second 400] [--workers-per-gpu 12]
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.data.studies import SPLITS, Studies

VIEWS = 2
SIZES = {"png": (2496, 2048), "jpeg": (3056, 2544), "dicom": (2496, 2048)}
"""Height and width."""
MIB = 2**20


def picture(seed: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Soft shapes under the grain of a detector, 0 to 1."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.random((12, 10), np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.clip(0.15 + 0.7 * np.asarray(coarse) + 0.004 * draw.standard_normal(size, np.float32), 0, 1)


def write_image(path: Path, kind: str, seed: int) -> None:
    pixels = picture(seed, SIZES[kind])
    if kind == "jpeg":
        Image.fromarray((255 * pixels).astype(np.uint8)).save(path, "JPEG", quality=95)
        return
    deep = (4095 * pixels).astype(np.uint16)
    if kind == "png":
        Image.fromarray(deep).save(path, "PNG")
        return
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = ComputedRadiographyImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = f"1.2.3.{seed}"
    made.Rows, made.Columns = deep.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.WindowCenter, made.WindowWidth = 2048, 4096
    made.PixelData = deep.tobytes()
    made.save_as(path, enforce_file_format=True)


class Made:
    """The files of one kind as originals, under as many ids as the store is to have."""

    def __init__(self, studies: list[tuple[Path, ...]], number: int) -> None:
        self._studies, self._number = studies, number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[OriginalStudy]:
        for index in range(self._number):
            split = SPLITS[index] if index < len(SPLITS) else "train"
            yield OriginalStudy(str(index), self._studies[index % len(self._studies)], findings="Clear.", split=split)


def make_files(root: Path, kind: str, studies: int) -> tuple[Studies, int]:
    """The training studies of one kind of files, and the bytes of one study."""
    names = [[f"{study}_{view}.{kind}" for view in range(VIEWS)] for study in range(studies)]
    (root / "images").mkdir(parents=True)
    for seed, name in enumerate(name for study in names for name in study):
        write_image(root / "images" / name, kind, seed)
    entries = [{"id": f"{i}", "report": "Clear.", "image_path": study} for i, study in enumerate(names)]
    others = {name: [{**entries[0], "id": name}] for name in ("val", "test")}
    (root / "annotation.json").write_text(json.dumps({"train": entries, **others}))
    size = sum(path.stat().st_size for path in (root / "images").iterdir()) // studies
    return AnnotatedStudies(root, check="stat").split("train"), size


def make_store(root: Path, files: Path, studies: int) -> tuple[Studies, int]:
    """The same of a prepared folder."""
    pictures = sorted(files.iterdir())
    views = [tuple(pictures[i : i + VIEWS]) for i in range(0, len(pictures), VIEWS)]
    build(Made(views, studies + 2), root, PrepareSettings(size=256))
    size = sum(path.stat().st_size for path in (root / "images").iterdir()) // (studies + 2)
    return PreparedStudies(root).split("train"), size


def seconds_per_study(studies: Studies, seconds: float) -> float:
    """By reading training samples, each with a seed of its own, until so many seconds are over."""
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not done:
        studies[done % len(studies), done]
        done += 1
    return spent / done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", type=int, default=3, help="of each kind of files; the store has eight times as many"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each kind in each turn")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu-studies-per-second", type=float, default=400.0, help="an assumption: of one GPU")
    parser.add_argument("--workers-per-gpu", type=int, default=12, help="that the node has cores for")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        kinds = {kind: make_files(home / kind, kind, arguments.studies) for kind in SIZES}
        kinds["store"] = make_store(home / "store", home / "png" / "images", 8 * arguments.studies)
        turns: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(arguments.turns):
            for kind, (studies, _) in kinds.items():
                turns[kind].append(seconds_per_study(studies, arguments.seconds))
    wanted = arguments.gpu_studies_per_second
    print(
        f"Training samples of {VIEWS} views, 224 of 256 px, one thread; workers for {arguments.gpus} GPUs of"
        f" {wanted:g} studies/s each (assumed), {arguments.workers_per_gpu} workers per GPU at hand"
    )
    columns = ("MiB/study", "ms/study", "studies/s", "of PNG", "workers/GPU", "workers", "busy", "GiB/s read")
    print(f"{'':8}" + "".join(f"{column:>13}" for column in columns))
    results: dict[str, dict[str, Any]] = {}
    slowest = statistics.median(turns["png"])
    for kind, (_, size) in kinds.items():
        seconds = statistics.median(turns[kind])
        workers = math.ceil(wanted * seconds)
        busy = min(1.0, arguments.workers_per_gpu / (wanted * seconds))
        results[kind] = {
            "bytes_per_study": size,
            "studies_per_second_per_worker": 1 / seconds,
            "ratio_to_png": slowest / seconds,
            "workers_per_gpu": workers,
            "busy": busy,
        }
        cells = (
            f"{size / MIB:.2f}",
            f"{1000 * seconds:.2f}",
            f"{1 / seconds:.1f}",
            f"{slowest / seconds:.1f} x",
            f"{workers}",
            f"{arguments.gpus * workers}",
            f"{busy:.0%}",
            f"{arguments.gpus * wanted * busy * size / 2**30:.2f}",
        )
        print(f"{kind:8}" + "".join(f"{cell:>13}" for cell in cells))
    print(json.dumps({"benchmark": "loading", "gpus": arguments.gpus, "gpu_studies_per_second": wanted, **results}))


if __name__ == "__main__":
    main()
