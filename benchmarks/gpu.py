"""Acceptance of the project on a CUDA machine: is it correct there, and how fast is it? Some 8 minutes; nothing is downloaded.

The parts, in the order of their importance; those that measure no time run first, several at once. After each part the results
are written to docs/results/gpu/CARD.json, and as tables to CARD.md beside it. Parts that are done are not run again. A part
whose packages are missing is skipped and says so. All weights are random.

    python benchmarks/gpu.py                          # with the checkout's src on PYTHONPATH, where nothing can be installed
    python benchmarks/gpu.py --parts recorded speed_16
    python benchmarks/gpu.py --tiny --out FOLDER      # every part on a CPU, at small sizes
"""

import argparse
import importlib
import os
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks for a GPU without making this process unfit to fork
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "src")]

from gpu_parts import runner, tables  # noqa: E402
from gpu_parts.part import Part, Setting  # noqa: E402

HYDRA = ("hydra", "omegaconf", "timm", "pytorch_lightning")
PARTS = (
    Part("recorded", "recorded", "Recorded numbers of released models: largest differences.", 60, needs=("safetensors",)),
    Part("objective", "objective", "Loss and gradients against the CPU: largest relative differences.", 60),
    Part("precision", "precision", "fp16 with an overflow on purpose; channels last.", 60, needs=HYDRA),
    Part("processes", "processes", "Collectives, DDP and FSDP2 against a plain step.", 60, needs=HYDRA),
    Part("training", "training", "hardneg-train on the phantom: whole, killed in mid-epoch, resumed.", 150, needs=HYDRA),
    Part("waits", "launches", "Host-device synchronisations of a training step, under Lightning.", 90, needs=HYDRA),
    Part("breaks", "compiling:run_breaks", "Graph breaks, by torch._dynamo.explain.", 90, needs=HYDRA),
    Part("compiled", "compiling", "torch.compile against the same without.", 90, needs=HYDRA),
    Part("extractor", "compiling:run_extractor", "torch.compile of the visual extractor.", 90, needs=HYDRA),
    Part("speed_16", "speed", "Steps of 16 studies, ResNet-101, two views of 224 px, bf16.", 60, True, 16, HYDRA),
    Part("cached", "speed:run_cached", "Steps of 16 studies on cached features: decoder and objective alone.", 30, True, 16, HYDRA),
    Part("cached_128", "speed:run_cached", "The same of 128 studies.", 30, True, 128, HYDRA),
    Part("speed_64", "speed", "Steps of 64 studies, as those of 16.", 60, True, 64, HYDRA),
    Part("decoding_16", "decoding", "Decoding 16 studies, 60 words.", 35, True, 16),
    Part("kernels", "launches:run_kernels", "Kernels for each step of decoding, by torch.profiler.", 25, True, 16, HYDRA),
    Part("loader", "loader", "Studies per second that the loader gives.", 30, True, 16, HYDRA),
    Part("decoding_128", "decoding", "Decoding 128 studies.", 35, True, 128),
    Part("decoding_512", "decoding", "Decoding 512 studies.", 50, True, 512),
    Part("speed_256", "speed", "Steps of 256 studies.", 90, True, 256, HYDRA),
)  # fmt: skip
MACHINE = Part("machine", "machine", "The card, its rates, and packages.", 60, True)
PRELOADED = ("hardneg_plugin.apps.train", "gpu_parts.steps", "gpu_parts.objective", "gpu_parts.decoding", "timm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="these only")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument("--seconds", type=float, default=530.0, help="for everything; what is left over is not run")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/gpu", help="folder of the results")
    parser.add_argument("--recorded", type=Path, default=ROOT / "tests/reference", help="folder of recorded numbers")
    parser.add_argument(
        "--logs", type=Path, help="a .tgz file, or a folder, for what the parts print; left out: none is kept"
    )
    parser.add_argument("--together", type=int, help="parts that run at once where none measures time")
    arguments = parser.parse_args()
    ends = time.monotonic() + arguments.seconds
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _stop)

    if not arguments.parts or len(arguments.parts) > 2:
        preload()
    import torch

    device = "cuda" if not arguments.tiny and torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        sys.exit("No CUDA device was found. On a CPU run benchmarks/gpu.py --tiny.")
    setting = Setting(device, arguments.tiny, 16, arguments.recorded.resolve(), ends)
    cores = len(os.sched_getaffinity(0))
    together = arguments.together or (min(12, cores - 4) if cores > 8 else max(1, cores // 2))
    with tempfile.TemporaryDirectory() as temporary:
        packed = arguments.logs if arguments.logs and arguments.logs.suffix == ".tgz" else None
        run = Run(setting, arguments, ends, Path(temporary) if packed or not arguments.logs else arguments.logs)
        try:
            chosen = run.chosen(together)
        finally:
            if packed:
                with tarfile.open(packed, "w:gz") as archive:
                    archive.add(temporary, "logs")
    statuses = {name: part["status"] for name, part in run.results["parts"].items()}
    print(f"{statuses}\n{run.file.with_suffix('.md')}")
    sys.exit(any(statuses.get(part.name) == "failed" for part in chosen))


def preload() -> None:
    """Import what most parts need, once: they are forked from here."""
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"without {name}: {error}", flush=True)


class Run:
    """The results so far, and the file that they are in.

    Args:
        setting: of all parts.
        arguments: of the command line.
        ends: by `time.monotonic()`.
        work: folder for what the parts print.
    """

    def __init__(self, setting: Setting, arguments: argparse.Namespace, ends: float, work: Path) -> None:
        self.setting, self.arguments, self.ends, self.work = setting, arguments, ends, work
        self.started = time.monotonic()
        self.file = arguments.out / "unknown.json"
        self.results: tables.Results = {}

    def machine(self) -> str:
        """Measure the card, and read what an earlier run left of it. Gives the method by which processes can start."""
        found = self._measured("fork")
        method = "fork" if "card" in found["rows"][0] else "spawn"
        if method == "spawn":  # a driver that this process has touched is of no use in its forks
            print(f"no card in a forked process: {found['rows'][0]}", flush=True)
            found = self._measured("spawn")
        card = found["rows"][0].get("card", "unknown") + ("-tiny" if self.arguments.tiny else "")
        self.file = tables.file_of(self.arguments.out, card)
        self.results = tables.read(self.file) or {"card": card, "parts": {}}
        self.results["command"] = "python benchmarks/gpu.py" + (" --tiny" if self.arguments.tiny else "")
        self.results["started"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._finished(MACHINE, found, "")
        return method

    def _measured(self, method: str) -> runner.Result:
        found: list[runner.Result] = []
        self._run([MACHINE], 1, method, lambda part, result, log: found.append(result))
        return {**found[0], "rows": found[0].get("rows") or [{}]}

    def chosen(self, together: int) -> list[Part]:
        """Run the parts that the command line asks for and that are not done, and write the results after each."""
        method, names, done = self.machine(), self.arguments.parts, self.results["parts"]
        chosen = [part for part in PARTS if not names or part.name in names]
        if not self.arguments.again:
            chosen = [part for part in chosen if done.get(part.name, {}).get("status") != "done"]
        self._run(chosen, together, method, self._finished)
        return chosen

    def _run(self, parts: Sequence[Part], together: int, method: str, finished: Any) -> None:
        runner.run_parts(
            parts,
            self.setting,
            ends=self.ends,
            together=together,
            method=method,
            folder=self.work,
            finished=finished,
        )

    def _finished(self, part: Part, result: runner.Result, log: str) -> None:
        if result["status"] == "not run" and part.name in self.results["parts"]:
            return
        self.results["parts"][part.name] = result
        order = [MACHINE.name, *(one.name for one in PARTS)]
        self.results["parts"] = {name: self.results["parts"][name] for name in order if name in self.results["parts"]}
        tables.write(self.file, self.results)
        at = time.monotonic() - self.started
        print(f"[{at:5.0f} s] {part.name}: {result['status']} in {result.get('seconds', 0)} s", end=" ")
        print(result.get("error", ""), *(f"failed: {name}" for name in result.get("failed", ())), flush=True)
        if result["status"] == "failed":
            print("\n".join(f"    {line}" for line in log.splitlines()[-25:]), flush=True)


def _stop(number: int, _: Any) -> None:
    raise SystemExit(128 + number)  # the parts that run are ended, and their rows kept


if __name__ == "__main__":
    main()
