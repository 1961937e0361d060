"""The decoders at the sizes they were released with, on made inputs, and the time that their arithmetic alone would take."""

import itertools
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.transformer import TransformerDecoder

STUDIES, PATCHES, PATCH_WIDTH, WORDS, VOCABULARY = 16, 98, 2048, 60, 760
DECODERS = {"transformer": TransformerDecoder, "r2gen": R2Gen, "r2gencmn": R2GenCMN}
THREADS = 2


def make(name: str) -> tuple[EncoderDecoder, Tensor]:
    """A decoder with random weights, and patches."""
    torch.manual_seed(0)
    return DECODERS[name](VOCABULARY, PATCH_WIDTH), torch.randn(STUDIES, PATCHES, PATCH_WIDTH)


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of all matrix products in a call, a multiplication and an addition counted as two."""
    packed = {torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}
    with FlopCounterMode(display=False, custom_mapping=packed) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


def matmul_rate(size: int = 1024, repeats: int = 10) -> float:
    """Operations per second of square float32 products."""
    a = torch.randn(size, size)
    a @ a
    return 2 * size**3 * repeats / seconds_of(lambda: [a @ a for _ in range(repeats)])


def against_floor(call: Callable[[], object], repeats: int, released_seconds: float | None) -> dict[str, float | None]:
    """Median seconds of a call, and how they compare to its matrix products alone and to the released code.

    The rate of the machine is taken before and after every call, so that a slow spell falls on both sides of the ratio.
    """
    call()
    work = operations(call)
    rates, seconds = [matmul_rate()], []
    for _ in range(repeats):
        seconds.append(seconds_of(call))
        rates.append(matmul_rate())
    floors = [2 * work / (before + after) for before, after in itertools.pairwise(rates)]
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "gflop": work / 1e9,
        "gflop_per_second": statistics.median(rates) / 1e9,
        "floor_seconds": statistics.median(floors),
        "over_floor": statistics.median(s / floor for s, floor in zip(seconds, floors, strict=True)),
        "released_over_this": released_seconds / median if released_seconds else None,
    }


HEADER = f"{'':12} {'seconds':>8} {'GFLOP':>7} {'GFLOP/s at best':>16} {'floor s':>8} {'over floor':>11} {'released over':>14}"


def row(name: str, r: dict[str, float | None]) -> str:
    """A line below `HEADER`."""
    times = f"{r['released_over_this']:.1f}x" if r["released_over_this"] else ""
    return (
        f"{name:12} {r['seconds']:8.2f} {r['gflop']:7.0f} {r['gflop_per_second']:16.0f} {r['floor_seconds']:8.2f} "
        f"{r['over_floor']:10.2f}x {times:>14}"
    )


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
