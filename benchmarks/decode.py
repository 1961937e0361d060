"""Beam search at released sizes: seconds, and how far they are from what the matrix products alone would take.

16 studies of 98 patches, beam 3, 60 words without an end, decoder only, random weights, 2 threads. The rate of the machine is
taken before and after every decoding of the same run, so that a slow spell falls on both sides of the ratio.

Beside it stands the time that reading takes: a step multiplies 48 rows only, with weights, keys and values that no cache
holds until the next step.

    python benchmarks/decode.py [--repeats 5] [--decoders r2gen r2gencmn]
"""

import argparse
import itertools
import json
import statistics

import torch
from released_sizes import DECODERS, STUDIES, THREADS, WORDS, make, matmul_rate, operations, read_rate, seconds_of

from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder

RELEASED_SECONDS = {"r2gen": 86.0, "r2gencmn": 111.0}
"""The released code with two cores of the same kind."""


@torch.no_grad()
def bytes_read(decoder: EncoderDecoder, patches: torch.Tensor) -> int:
    """What the steps must read at least, each of them anew: weights, and keys and values of the image and of the words."""
    image = decoder.start(patches, max_length=WORDS, beams=3).image
    of_encoder = {*decoder.project.parameters(), *decoder.encoder.parameters(), decoder.embedding.weight}
    weights = sum(p.numel() for p in decoder.parameters() if p not in of_encoder)
    patches_read = sum(tensor.numel() for layer in image for tensor in layer)
    words_read = 2 * len(image) * STUDIES * 3 * WORDS // 2 * decoder.width  # on average
    return 4 * WORDS * (weights + patches_read + words_read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=list(DECODERS))
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    print(f"{STUDIES} studies, beam 3, {WORDS} words, {THREADS} threads; medians of {arguments.repeats}")
    print(
        f"{'':12} {'seconds':>8} {'GFLOP':>7} {'GFLOP/s at best':>16} {'floor s':>8} {'over floor':>11} {'released over':>14}"
        f" {'GB read':>8} {'reading s':>10}"
    )
    results = {}
    for name in arguments.decoders:
        decoder, patches = make(name)
        with torch.no_grad():
            decoder.output.bias[0] = -1e4  # no report ends

        def decode(decoder=decoder, patches=patches) -> torch.Tensor:
            return decoder.generate(patches, beam_size=3, max_length=WORDS)

        assert (decode() > 0).all()
        work = operations(decode)
        read = bytes_read(decoder, patches)
        rates, seconds = [matmul_rate()], []
        for _ in range(arguments.repeats):
            seconds.append(seconds_of(decode))
            rates.append(matmul_rate())
        floors = [2 * work / (before + after) for before, after in itertools.pairwise(rates)]
        median = statistics.median(seconds)
        results[name] = {
            "seconds": median,
            "gflop": work / 1e9,
            "gflop_per_second": statistics.median(rates) / 1e9,
            "floor_seconds": statistics.median(floors),
            "over_floor": statistics.median(s / floor for s, floor in zip(seconds, floors, strict=True)),
            "released_over_this": RELEASED_SECONDS[name] / median if name in RELEASED_SECONDS else None,
            "gigabytes_read": read / 1e9,
            "reading_seconds": read / read_rate(),
        }
        r = results[name]
        times = f"{r['released_over_this']:.0f}x" if r["released_over_this"] else ""
        print(
            f"{name:12} {median:8.2f} {r['gflop']:7.0f} {r['gflop_per_second']:16.0f} {r['floor_seconds']:8.2f} "
            f"{r['over_floor']:10.2f}x {times:>14} {r['gigabytes_read']:8.1f} {r['reading_seconds']:10.2f}"
        )
    print(json.dumps({"benchmark": "decode", **results}))


if __name__ == "__main__":
    main()
