"""Decoding at released sizes, beside the released search and beside what the matrix products alone would take.

98 patches, 60 words without an end, decoder only, random weights. Each round measures our search, the rate of the machine before
and after it, and the released search (`uncached_search.py`), so that a slow spell falls on all of them. Ratios are taken within a
round; the median over rounds is shown. Of the released search four steps are run, after 1, 20, 40 and 60 words: its time between
them is nearly linear. `--whole` runs all of them.

The floor is the larger of two times: of all operations of our search at the rate of square float32 products, and of reading what
no cache holds from one step to the next: weights, keys and values, in float32. The search in bfloat16 (`decoding.precision`) is
given as a ratio to ours in float32; random weights cannot say which other tokens a trained model would choose. On a machine with
other work to do, `--cpu-time` counts the CPU seconds of one thread.

`--ending` measures something else: reports of 10 to 60 words, evenly, with and without the studies leaving whose reports are final.

    python benchmarks/decode.py [--rounds 3] [--decoders r2gen r2gencmn] [--batches 1 16 64] [--beams 3 1]
                                [--whole] [--cpu-time] [--ending]
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from released_sizes import PATCH_WIDTH, PATCHES, THREADS, WORDS, make, operations
from torch import Tensor
from uncached_search import UncachedSearch

from hardneg_plugin.backbones import leaving
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder, EncoderDecoderState
from hardneg_plugin.backbones.packed import Precision

SAMPLED = (1, 20, 40, WORDS)
Clock = Callable[[], float]


def seconds_of(call: Callable[[], object], clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


def matmul_rate(clock: Clock, size: int = 1024, repeats: int = 5) -> float:
    """Operations per second of square float32 products."""
    a = torch.randn(size, size)
    return 2 * size**3 * repeats / seconds_of(lambda: [a @ a for _ in range(repeats)], clock)


def read_rate(clock: Clock, mib: int = 256) -> float:
    """Bytes per second that a large tensor, which no cache holds, is read with."""
    a = torch.ones(mib * 2**18)
    a.sum()
    return 4 * a.numel() / seconds_of(a.sum, clock)


def bytes_read(decoder: EncoderDecoder, patches: Tensor, beams: int) -> int:
    """What the steps must read at least, each of them anew: weights, and keys and values of the image and of the words."""
    image = decoder.start(patches, max_length=WORDS, beams=beams).image
    of_encoder = {*decoder.project.parameters(), *decoder.encoder.parameters(), decoder.embedding.weight}
    weights = sum(p.numel() for p in decoder.parameters() if p not in of_encoder)
    patches_read = sum(tensor.numel() for layer in image for tensor in layer)
    words_read = 2 * len(image) * len(patches) * beams * WORDS // 2 * decoder.width  # on average
    return 4 * WORDS * (weights + patches_read + words_read)


def released_seconds(decoder: EncoderDecoder, patches: Tensor, beams: int, *, whole: bool, clock: Clock) -> float:
    """Seconds of the released search: of its steps after `SAMPLED` words, those between taken from the straight line."""
    if whole:
        return seconds_of(lambda: UncachedSearch(decoder, patches, beams).run(WORDS), clock)
    start = clock()
    search = UncachedSearch(decoder, patches, beams)
    seconds = clock() - start
    rows = torch.arange(len(patches) * beams)
    steps = []
    for length in SAMPLED:
        search.pretend(length)
        tokens = torch.ones(len(rows), length, dtype=torch.long)

        def step(tokens: Tensor = tokens) -> None:
            search.step(tokens)
            search.reorder(rows)

        steps.append(seconds_of(step, clock))
    for (first, end), (before, after) in zip(itertools.pairwise(SAMPLED), itertools.pairwise(steps), strict=True):
        seconds += sum(before + (after - before) * (t - first) / (end - first) for t in range(first, end))
    return seconds + steps[-1]


def end_after(decoder: EncoderDecoder, words: Tensor) -> None:
    """Let the report of each study end after these many words, `(B,)`."""
    start, step = decoder.start, decoder.step

    def start_with_ends(patches: Tensor, **options: Any) -> EncoderDecoderState:
        state = start(patches, **options)
        ends, keep = [words], state.keep

        def keep_with_ends(studies: Tensor) -> None:
            ends[0] = ends[0][studies]
            keep(studies)

        vars(state).update(ends=ends, keep=keep_with_ends)
        return state

    def step_with_ends(tokens: Tensor, state: Any) -> Tensor:
        log_probs = step(tokens, state)
        is_end = state.ends[0] < state.cache.length
        log_probs[:, :, 0] = torch.where(is_end, 0.0, -1e4)[:, None]
        return log_probs

    vars(decoder).update(start=start_with_ends, step=step_with_ends)


@torch.no_grad()
def measure_ending(decoder: EncoderDecoder, patches: Tensor, beams: int, rounds: int, clock: Clock) -> dict[str, float]:
    """Seconds with studies that leave and with studies that stay, alternately."""
    words = torch.linspace(10, WORDS - 1, len(patches)).long()
    end_after(decoder, words)
    seconds: dict[float, list[float]] = {0.0: [], leaving.FEW_ENOUGH: []}
    found = {}
    for _ in range(rounds + 1):
        for share in seconds:
            leaving.FEW_ENOUGH = share

            def ours(share: float = share) -> None:
                found[share] = decoder.generate(patches, beam_size=beams, max_length=WORDS)

            seconds[share].append(seconds_of(ours, clock))
    stay, leave = (each[1:] for each in seconds.values())  # the first is a rehearsal
    vars(decoder).pop("start"), vars(decoder).pop("step")
    tokens = list(found.values())
    assert all((each > 0).sum(1).equal(words) for each in tokens), "other lengths"
    return {
        "equal_tokens": float(tokens[0].eq(tokens[1]).float().mean()),
        "stay_seconds": statistics.median(stay),
        "leave_seconds": statistics.median(leave),
        "stay_over_leave": statistics.median(a / b for a, b in zip(stay, leave, strict=True)),
    }


@torch.no_grad()
def measure(
    decoder: EncoderDecoder, patches: Tensor, beams: int, *, rounds: int, whole: bool, clock: Clock
) -> dict[str, float]:
    """Medians over rounds: seconds, and ratios taken within each round."""

    def ours(precision: Precision | None = None) -> None:
        decoding = Decoding(beam_size=beams, max_length=WORDS, precision=precision)
        assert (decoder.decode(patches, decoding).tokens > 0).all()

    ours("bfloat16")
    ours()
    work, read = operations(ours), bytes_read(decoder, patches, beams)
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        before = matmul_rate(clock)
        seconds, bfloat16 = seconds_of(ours, clock), seconds_of(lambda: ours("bfloat16"), clock)
        by_operations = 2 * work / (before + matmul_rate(clock))
        by_reading = read / read_rate(clock)
        floor = max(by_operations, by_reading)
        released = released_seconds(decoder, patches, beams, whole=whole, clock=clock)
        found.append(
            {
                "seconds": seconds,
                "tokens_per_second": len(patches) * WORDS / seconds,
                "by_operations": by_operations,
                "by_reading": by_reading,
                "over_floor": seconds / floor,
                "released_seconds": released,
                "released_over_this": released / seconds,
                "this_over_bfloat16": seconds / bfloat16,
                "released_over_bfloat16": released / bfloat16,
            }
        )
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decoders", nargs="+", choices=["r2gen", "r2gencmn"], default=["r2gen", "r2gencmn"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--beams", nargs="+", type=int, default=[3, 1])
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--ending", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.cpu_time else THREADS)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    kind = "CPU seconds of 1 thread" if arguments.cpu_time else f"{THREADS} threads"
    print(f"{WORDS} words, {kind}; medians of {arguments.rounds} rounds")
    print(
        f"{'':10} {'batch':>5} {'beam':>4} {'seconds':>8} {'tokens/s':>9} {'operations s':>13} {'reading s':>10} "
        f"{'over floor':>11} {'released s':>11} {'released over':>14} {'over bfloat16':>14}"
    )
    results = []
    for name in arguments.decoders:
        decoder, _ = make(name)
        decoder.eval()
        with torch.no_grad():
            decoder.output.bias[0] = -1e4  # no report ends
        few = torch.randn(1, PATCHES, PATCH_WIDTH)
        with torch.no_grad():
            expected = UncachedSearch(decoder, few, 3).run(12)
            assert decoder.generate(few, beam_size=3, max_length=12).equal(expected), "other tokens than released"
        for batch in arguments.batches:
            for beams in arguments.beams:
                patches = torch.randn(batch, PATCHES, PATCH_WIDTH)
                if arguments.ending:
                    r = measure_ending(decoder, patches, beams, arguments.rounds, clock)
                    results.append({"decoder": name, "batch": batch, "beam": beams, **r})
                    print(results[-1], flush=True)
                    continue
                r = measure(decoder, patches, beams, rounds=arguments.rounds, whole=arguments.whole, clock=clock)
                results.append({"decoder": name, "batch": batch, "beam": beams, **r})
                print(
                    f"{name:10} {batch:5} {beams:4} {r['seconds']:8.2f} {r['tokens_per_second']:9.0f} "
                    f"{r['by_operations']:13.2f} {r['by_reading']:10.2f} {r['over_floor']:10.2f}x "
                    f"{r['released_seconds']:11.1f} {r['released_over_this']:13.1f}x {r['this_over_bfloat16']:13.2f}x",
                    flush=True,
                )
    print(json.dumps({"benchmark": "decode", "results": results}))


if __name__ == "__main__":
    main()
