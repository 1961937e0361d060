"""Beam search at released sizes: seconds, and how far they are from what the matrix products alone would take.

16 studies of 98 patches, beam 3, 60 words without an end, decoder only, random weights, 2 threads. The rate of the machine is
taken before and after every decoding of the same run, so that a slow spell falls on both sides of the ratio.

Beside it stands the time that reading takes: a step multiplies 48 rows only, with weights, keys and values that no cache
holds until the next step.

    python benchmarks/decode.py [--repeats 5] [--decoders r2gen r2gencmn]
"""

import argparse
import json

import torch
from released_sizes import DECODERS, HEADER, STUDIES, THREADS, WORDS, against_floor, make, read_rate, row

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
    print(f"{HEADER} {'GB read':>8} {'reading s':>10}")
    results = {}
    for name in arguments.decoders:
        decoder, patches = make(name)
        with torch.no_grad():
            decoder.output.bias[0] = -1e4  # no report ends

        def decode(decoder=decoder, patches=patches) -> None:
            assert (decoder.generate(patches, beam_size=3, max_length=WORDS) > 0).all()

        read = bytes_read(decoder, patches)
        results[name] = r = {
            **against_floor(decode, arguments.repeats, RELEASED_SECONDS.get(name)),
            "gigabytes_read": read / 1e9,
            "reading_seconds": read / read_rate(),
        }
        print(f"{row(name, r)} {r['gigabytes_read']:8.1f} {r['reading_seconds']:10.2f}")
    print(json.dumps({"benchmark": "decode", **results}))


if __name__ == "__main__":
    main()
