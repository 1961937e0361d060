"""Decoding: tokens per second, and time over the floor that reading or arithmetic sets.

98 patches of width 2,048, 60 words and no end, random weights, decoder only, bf16 and float32. A step must read weights, keys and
values once (bytes over the card's copy rate), and multiply (operations over its product rate): the floor is the larger of the two.
"""

import statistics
from typing import Any

import torch
from released_sizes import DECODERS, PATCH_WIDTH, PATCHES, VOCABULARY, WORDS, operations
from torch import Tensor

from gpu_parts.card import copy_rate, exact, matmul_rate, peak_mib, seconds_of
from gpu_parts.part import Row, Rows, Setting

BEAMS = (1, 3)
BACKBONES = ("transformer", "r2gen", "r2gencmn", "causal_lm")
LANGUAGE_MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 1024,
}


def run(setting: Setting, rows: Rows) -> None:
    """One row for each backbone, beam size and precision at a batch size."""
    exact()
    rates = {
        "float32": matmul_rate(setting, torch.float32),
        "bf16": matmul_rate(setting, torch.bfloat16),
        "bytes": copy_rate(setting),
    }
    rows.add({"": "rates", **rates})
    work: dict[tuple[str, int], int] = {}
    for precision in ("bf16",) if setting.tiny else ("bf16", "float32"):
        for name in BACKBONES[:2] if setting.tiny and setting.studies > 16 else BACKBONES:
            if setting.left() < 2:
                return
            with rows.row(f"{name}, {precision}") as row:
                decoder, patches = make(name, setting)
                for beams in BEAMS:
                    if (name, beams) not in work:
                        work[name, beams] = _operations(decoder, patches, beams, words_of(setting))
                    _measure(decoder, patches, beams, precision, work[name, beams], rates, setting, row)
                row["ok"] = True


def _operations(decoder: Any, patches: Tensor, beams: int, words: int) -> int:
    return operations(lambda: decoder.generate(patches, beam_size=beams, max_length=words))


def make(name: str, setting: Setting) -> tuple[Any, Tensor]:
    """A decoder that never ends a report, and patches.

    Args:
        name: of `released_sizes.DECODERS`, or "causal_lm".
        setting: for device and batch size.
    """
    torch.manual_seed(0)
    patch_width = 32 if setting.tiny else PATCH_WIDTH
    if name == "causal_lm":
        from hardneg_plugin.backbones.causal_lm import CausalLMDecoder

        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
        decoder: Any = CausalLMDecoder(
            VOCABULARY, patch_width, config={**LANGUAGE_MODEL, **(sizes if setting.tiny else {})}
        )
    else:
        small = {"width": 32, "heads": 2, "layers": 1, "feedforward_width": 32} if setting.tiny else {}
        if setting.tiny and name == "r2gen":
            small["memory_heads"] = 2
        decoder = DECODERS[name](VOCABULARY, patch_width, **small)
        with torch.no_grad():
            decoder.output.bias[0] = -1e4
    patches = torch.randn(2 if setting.tiny else setting.studies, 6 if setting.tiny else PATCHES, patch_width)
    return decoder.to(setting.device).eval(), patches.to(setting.device)


def words_of(setting: Setting) -> int:
    """Tokens of a report."""
    return 6 if setting.tiny else WORDS


def _measure(
    decoder: Any,
    patches: Tensor,
    beams: int,
    precision: str,
    work: int,
    rates: dict[str, float],
    setting: Setting,
    row: Row,
) -> None:
    words, name = words_of(setting), "greedy" if beams == 1 else f"beam{beams}"
    is_half = precision == "bf16"

    def decode() -> Tensor:
        with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=is_half):
            tokens: Tensor = decoder.generate(patches, beam_size=beams, max_length=words)
            return tokens

    tokens = decode()
    peak_mib(setting)
    seconds = [seconds_of(decode, setting.device)]
    for _ in range(0 if setting.tiny else 2):
        if setting.left() > 3 * seconds[0]:
            seconds.append(seconds_of(decode, setting.device))
    made = int((tokens > 0).sum())
    median = statistics.median(seconds)
    row[f"{name}_tokens_per_s"] = made / median
    row[f"{name}_ms_per_step"] = 1000 * median / words
    arithmetic = work / rates[precision]
    # bytes_read of decode.py, for any batch and element size; weights are read in float32 and used in bf16
    reading = _bytes_read(decoder, patches, beams, words) / (2 if is_half else 1) / rates["bytes"]
    row[f"{name}_floor_ms_per_step"] = 1000 * max(arithmetic, reading) / words
    row[f"{name}_over_floor"] = median / max(arithmetic, reading)
    row[f"{name}_floor_is"] = "operations" if arithmetic > reading else "reading"
    row[f"{name}_peak_mib"] = peak_mib(setting)


@torch.no_grad()
def _bytes_read(decoder: Any, patches: Tensor, beams: int, words: int) -> float:
    """Of float32 weights, keys and values of the image, and of half of the words."""
    weights = sum(p.numel() for p in decoder.parameters())
    if not hasattr(decoder, "encoder"):
        config = decoder.model.config
        kept = 2 * config.num_hidden_layers * config.hidden_size * len(patches) * beams * (patches.shape[1] + words / 2)
        return 4 * words * (weights + kept)
    of_encoder = {*decoder.project.parameters(), *decoder.encoder.parameters(), decoder.embedding.weight}
    weights -= sum(p.numel() for p in of_encoder)
    image = 2 * len(decoder.decoder) * patches.shape[0] * patches.shape[1] * decoder.width
    spoken = 2 * len(decoder.decoder) * len(patches) * beams * words / 2 * decoder.width
    return 4 * words * (weights + image + spoken)
