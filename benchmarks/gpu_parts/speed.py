"""Training steps of the variants in turns: time over the bare host's, studies per second, model FLOP/s, memory.

Each variant's first steps come before the turns; one that does not fit into memory is named and left out.
"""

import contextlib
import gc
import statistics
import time
import traceback
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_parts.card import in_turns, matmul_rate
from gpu_parts.part import LEFT_OUT, Row, Rows, Setting, short
from gpu_parts.steps import VARIANTS, Step

CACHED = ("host", "in_batch", "by_image", "by_image, hardened", "by_text", "likelihood margin")
TINY = ("host", "in_batch", "queue 64k", "bank 16k", "gk_mvlp", "paired")
TURNS, UNCOUNTED = 12, 3
FOR_TURNS = 0.35
"""Of the time of a part."""
LIMIT = 1.3
"""Of the host's step, for `by_image` with cached features."""


def run(setting: Setting, rows: Rows) -> None:
    """All variants with the encoder, in bf16."""
    names = list(VARIANTS) if not setting.tiny else list(TINY) if setting.studies == 16 else list(TINY[:2])
    _compare(names, setting, rows, cached=False)


def run_cached(setting: Setting, rows: Rows) -> None:
    """Those that read reports again, on cached features: the decoder's step alone."""
    _compare(
        list(CACHED if not setting.tiny else CACHED[: 4 if setting.studies == 16 else 2]), setting, rows, cached=True
    )


def _compare(names: list[str], setting: Setting, rows: Rows, *, cached: bool) -> None:
    torch.backends.cudnn.benchmark = True  # as trainer=gpu
    rate = matmul_rate(setting, torch.bfloat16)
    rows.add({"": "bf16 product", "flops_per_s": rate})
    steps: dict[str, Step] = {}
    left_out, whole = [], setting.left()
    facts: dict[str, Row] = {}
    for name in names:
        # a pair in any case, more as long as there is time: the turns need some of it
        if len(steps) > 1 and setting.left() < FOR_TURNS * whole:
            left_out.append(name)
            continue
        with failure_as_row(rows, name, setting):
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
    if left_out:
        rows.add({"": LEFT_OUT, "error": f"no time to build {', '.join(left_out)}"})


@contextlib.contextmanager
def failure_as_row(rows: Rows, name: str, setting: Setting) -> Iterator[None]:
    """A failure within the block becomes a row; what it held of the device's memory is freed."""
    try:
        yield
        return
    except ImportError:
        raise
    except torch.OutOfMemoryError:
        rows.add({"": name, "error": "out of memory"})
    except Exception as error:
        traceback.print_exc()
        rows.add({"": name, "ok": False, "error": short(error)})
    gc.collect()
    if setting.is_cuda:
        torch.cuda.empty_cache()


def studies_of(setting: Setting) -> int:
    """Of a batch; few where the sizes are small."""
    return 4 if setting.tiny else setting.studies


def _first_steps(name: str, setting: Setting, cached: bool) -> tuple[Row, Step]:
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
