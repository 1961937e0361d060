"""Time on a device, and what the device can do at most."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from gpu_parts.part import Setting


def exact() -> None:
    """Float32 products in float32: no TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def wait(device: str) -> None:
    """Until the device has done all it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Of one call on an idle device: by CUDA events there, which contain the gaps while kernels are being launched."""
    wait(device)
    if device != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def in_turns(
    calls: Mapping[str, Callable[[], Any]], setting: Setting, *, turns: int, uncounted: int
) -> dict[str, list[float]]:
    """Seconds of each call, which take turns: a slow spell falls on all of them.

    Args:
        calls: by name.
        setting: whose time ends the turns, after one that counts.
        turns: that count.
        uncounted: turns before those.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + uncounted):
        if turn > uncounted and setting.left() < 0:
            break
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value = seconds_of(calls[name], setting.device)
            if turn >= uncounted:
                seconds[name].append(value)
    return seconds


def matmul_rate(setting: Setting, dtype: torch.dtype) -> float:
    """Operations per second of a large square product, the best of several."""
    size = 256 if setting.tiny else 8192 if dtype is torch.bfloat16 else 4096
    a, b = (torch.randn(size, size, device=setting.device).to(dtype) for _ in range(2))
    times = [seconds_of(lambda: [a @ b for _ in range(4)], setting.device) for _ in range(6)]
    return 4 * 2 * size**3 / min(times[1:])


def copy_rate(setting: Setting) -> float:
    """Bytes per second of a large copy, read and written both counted."""
    a = torch.ones((1 if setting.tiny else 1024) * 2**18, device=setting.device)
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / min(seconds_of(lambda: b.copy_(a), setting.device) for _ in range(6))


@contextlib.contextmanager
def bf16(setting: Setting) -> Iterator[None]:
    """Under autocast to bfloat16."""
    with torch.autocast(setting.device, dtype=torch.bfloat16):
        yield


def peak_mib(setting: Setting) -> float | None:
    """Of allocated memory since the last call; None on a CPU."""
    if not setting.is_cuda:
        return None
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 1)
