"""Where a training step waits for the device, and how many kernels a decoded token takes.

Waits are counted twice over: by `torch.cuda.set_sync_debug_mode`, on a GPU, and by the operations that need a value on the
host, on any device. The step is that of a Lightning training.
"""

import collections
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_parts.decoding import make, words_of
from gpu_parts.part import ROOT, Rows, Setting
from gpu_parts.steps import VARIANTS, Step

COUNTED = 4
"""Steps."""
HOST_VALUES = (
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique_dim", "aten._unique2", "aten.bincount",
    "aten.is_nonzero", "aten.equal", "aten.repeat_interleave.Tensor", "aten.unique_consecutive",
)  # fmt: skip
TINY = ("host", "bank 16k")
PLUG_IN = ("objectives/", "functional/", "plugin/", "distributed.py", "agreement.py", "grounding/")


class HostValues(TorchDispatchMode):
    """Counts operations that need a value of the device on the host, by the line that calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        is_mask = name.startswith(("aten.index.", "aten.index_put"))
        if is_mask and len(args) > 1:
            is_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if is_mask or name.startswith(HOST_VALUES):
            self.places[place()] += 1
        return func(*args, **(kwargs or {}))


def place() -> str:
    """The innermost line of this project in the stack, or the innermost at all."""
    frames = traceback.extract_stack()
    source = str(ROOT / "src")
    ours = [frame for frame in frames if frame.filename.startswith(source)]
    other = [frame for frame in frames if "/torch/" not in frame.filename and "gpu_parts" not in frame.filename]
    frame = (ours or other or frames)[-1]
    name = frame.filename.removeprefix(f"{source}/hardneg_plugin/")
    if "site-packages/" in name:
        name = name.split("site-packages/")[1]
    elif name.startswith("/"):
        name = Path(name).name
    return f"{name}:{frame.lineno}"


@contextmanager
def cuda_waits(setting: Setting) -> Iterator[collections.Counter[str]]:
    """Counts waits by the line that calls them; none on a CPU."""
    places: collections.Counter[str] = collections.Counter()
    if not setting.is_cuda:
        yield places
        return

    def show(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            places[place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


def run(setting: Setting, rows: Rows) -> None:
    """Waits of each variant's step, then kernels of decoding."""
    for name in TINY if setting.tiny else VARIANTS:
        with rows.row(name) as row:
            waits, values = _waits(name, setting)
            own = {key: count for key, count in waits.items() if key.startswith(PLUG_IN)}
            own_values = {key: count for key, count in values.items() if key.startswith(PLUG_IN)}
            row["cuda_per_step"] = round(sum(waits.values()) / COUNTED, 2) if setting.is_cuda else None
            row["cuda_of_plug_in"] = round(sum(own.values()) / COUNTED, 2) if setting.is_cuda else None
            row["cuda_places"] = {key: round(count / COUNTED, 2) for key, count in waits.most_common(12)}
            row["values_of_plug_in"] = round(sum(own_values.values()) / COUNTED, 2)
            row["value_places"] = {key: round(count / COUNTED, 2) for key, count in own_values.items()}


def _waits(name: str, setting: Setting) -> tuple[collections.Counter[str], collections.Counter[str]]:
    import pytorch_lightning as pl

    step = Step(name, "phantom", 8, setting)
    counted: dict[str, Any] = {}
    warm = 2

    class Count(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == warm:
                counted["manager"] = cuda_waits(setting)
                counted["cuda"] = counted["manager"].__enter__()
            if index == warm + COUNTED:
                counted["manager"].__exit__(None, None, None)
                counted["mode"] = HostValues()
                counted["mode"].__enter__()
            if index == warm + 2 * COUNTED:
                counted["mode"].__exit__(None, None, None)

    batches = [step.batch] * (warm + 2 * COUNTED + 1)
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type, var-annotated]
    trainer = pl.Trainer(
        accelerator="gpu" if setting.is_cuda else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        callbacks=[Count()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(step.model, loader)
    return counted["cuda"], counted["mode"].places


def run_kernels(setting: Setting, rows: Rows) -> None:
    """Kernels, and calls of the driver, for each decoded step."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.is_cuda else [])]
    words = min(words_of(setting), 8)
    for name in ("transformer", "r2gencmn") if setting.tiny else ("transformer", "r2gen", "r2gencmn", "causal_lm"):
        for beams in (3,) if setting.tiny else (1, 3):
            with rows.row(f"{name}, beam {beams}") as row:
                decoder, patches = make(name, setting)
                counts = []
                for length in (words // 2, words):
                    decoder.generate(patches, beam_size=beams, max_length=length)
                    with profile(activities=activities) as profiler:
                        decoder.generate(patches, beam_size=beams, max_length=length)
                    counts.append(_events(profiler, setting))
                # the difference of two lengths: what is done once falls out
                for kind in counts[0]:
                    row[f"{kind}_per_step"] = (counts[1][kind] - counts[0][kind]) / (words - words // 2)
                row["batch"] = setting.studies


def _events(profiler: Any, setting: Setting) -> dict[str, int]:
    events = profiler.events()
    operations = [event for event in events if event.name.startswith("aten::")]
    counts = {"aten": len(operations)}
    if setting.is_cuda:
        kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        counts["kernels"] = len(kernels)
        counts["launches"] = sum("LaunchKernel" in event.name for event in events)
        counts["synchronisations"] = sum("Synchronize" in event.name for event in events)
        counts["kernel_us"] = int(sum(getattr(event, "device_time", 0) for event in kernels))
    return counts


if __name__ == "__main__":
    sys.exit("Run benchmarks/gpu.py --parts waits kernels")
