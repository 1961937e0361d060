"""The decoders at the sizes they were released with, on made inputs, and the time that their arithmetic alone would take."""

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
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


def matmul_rate(size: int = 1024, repeats: int = 10) -> float:
    """Operations per second of square float32 products."""
    a = torch.randn(size, size)
    a @ a
    return 2 * size**3 * repeats / seconds_of(lambda: [a @ a for _ in range(repeats)])


def read_rate(mib: int = 256) -> float:
    """Bytes per second that a large tensor, which no cache holds, is read with."""
    a = torch.ones(mib * 2**18)
    a.sum()
    return 4 * a.numel() / seconds_of(a.sum)


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
