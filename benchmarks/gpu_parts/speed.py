"""Training steps of the variants in turns: time over the bare host's, studies per second, model FLOP/s, memory.

Each variant's first steps come before the turns; one that does not fit into memory is named and left out.
"""

import gc
import statistics
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_parts.card import in_turns, matmul_rate
from gpu_parts.part import Row, Rows, Setting, short
from gpu_parts.steps import VARIANTS, Step

CACHED = ("host", "in_batch", "by_image", "by_image, hardened", "by_text", "likelihood margin")
TURNS, UNCOUNTED = 12, 3
LIMIT = 1.3
"""Of the host's step, for `by_image` with cached features."""


def run(setting: Setting, rows: Rows) -> None:
    """All variants with the encoder, in bf16."""
    few = setting.tiny and setting.studies > 16
    _compare(["host", "in_batch"] if few else list(VARIANTS), setting, rows, cached=False)


def run_cached(setting: Setting, rows: Rows) -> None:
    """Those that read reports again, on cached features: the decoder's step alone."""
    _compare(list(CACHED), setting, rows, cached=True)


def _compare(names: list[str], setting: Setting, rows: Rows, *, cached: bool) -> None:
    torch.backends.cudnn.benchmark = True  # as trainer=gpu
    rate = matmul_rate(setting, torch.bfloat16)
    rows.add({"": "bf16 product", "flops_per_s": rate})
    steps: dict[str, Step] = {}
    facts: dict[str, Row] = {}
    for name in names:
        # as many variants as half of the time allows: the turns need the other half
        if steps and setting.left() < 0.5 * (setting.left() + _spent(facts)):
            rows.add({"": name, "error": "left out: no time to build it"})
            continue
        with rows_of_failure(rows, name, setting):
            facts[name], steps[name] = _first_steps(name, setting, cached)
    seconds = in_turns(steps, setting, turns=2 if setting.tiny else TURNS, uncounted=0 if setting.tiny else UNCOUNTED)
    for name, values in seconds.items():
        ratios = [value / host for value, host in zip(values, seconds["host"], strict=False)]
        median = statistics.median(values)
        row: Row = {
            "": name,
            "ms": 1000 * median,
            "over_host": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "studies_per_s": studies_of(setting) / median,
            "share_of_matmul_rate": facts[name]["flop"] / median / rate,
            **facts[name],
            "turns": len(values),
        }
        if cached and name == "by_image":
            row["ok"] = setting.tiny or row["over_host"] <= LIMIT
        rows.add(row)


class rows_of_failure:  # noqa: N801
    """A failure within the block becomes a row; what it held of the device's memory is freed."""

    def __init__(self, rows: Rows, name: str, setting: Setting) -> None:
        self.rows, self.name, self.setting = rows, name, setting

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            return False
        if not isinstance(error, Exception) or isinstance(error, ImportError):
            return False
        is_memory = isinstance(error, torch.OutOfMemoryError)
        self.rows.add({"": self.name, "ok": is_memory, "error": "out of memory" if is_memory else short(error)})
        del error, trace
        gc.collect()
        if self.setting.is_cuda:
            torch.cuda.empty_cache()
        return True


def studies_of(setting: Setting) -> int:
    """Of a batch; few where the sizes are small."""
    return 4 if setting.tiny else setting.studies


def _spent(facts: dict[str, Row]) -> float:
    return sum(row["build_s"] for row in facts.values())


def _first_steps(name: str, setting: Setting, cached: bool) -> tuple[Row, Step]:
    import time

    start = time.monotonic()
    step = Step(name, "released", studies_of(setting), setting, channels_last=setting.is_cuda, cached=cached)
    step()
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    row: Row = {"flop": counter.get_total_flops()}
    if setting.is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        # of this variant alone: what it holds, and what its step adds at the peak
        row["peak_mib"] = round((step.bytes_held() + torch.cuda.max_memory_allocated() - before) / 2**20)
    row["build_s"] = round(time.monotonic() - start, 2)
    return row, step
