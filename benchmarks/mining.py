"""Seconds and memory of mining by TF-IDF, and whether what is found is what brute force finds.

Made-up reports of a small grammar: a quarter normal ones, which often repeat, the rest with one to four findings, sides, sizes and
some rare words. Each number of reports and each chunk in a process of its own. Memory is what the search adds to the process at
its peak, embeddings left out. Brute force compares 200 of the studies with all others in double precision. Prints a table and a
JSON line.

    python benchmarks/mining.py [--reports 2000 20000 200000] [--chunks 64 256 1024]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hardneg_plugin.neighbours.embedders import TfidfEmbedder, embed
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule, Neighbours

MIB = 2**20
K, CEILING, CHECKED = 5, 0.95, 200
NORMAL = (
    "the heart is normal in size",
    "the cardiomediastinal silhouette is within normal limits",
    "the lungs are clear",
    "no focal consolidation",
    "there is no pleural effusion",
    "no pneumothorax is seen",
    "the bony thorax is intact",
    "no acute osseous abnormality",
    "pulmonary vascularity is normal",
    "the mediastinal contours are unremarkable",
)
FINDINGS = (
    "there is a {size} {side} pleural effusion",
    "{size} {side} pneumothorax",
    "an opacity in the {side} {zone} zone is suspicious for pneumonia",
    "a {mm} mm nodule is seen in the {side} {zone} zone",
    "there is {size} cardiomegaly",
    "band-like atelectasis in the {side} {zone} zone",
    "the {side} hemidiaphragm is elevated",
    "degenerative changes of the spine at t{number}",
    "a line ends in the {side} {zone} zone, device {code}",
    "healed fracture of the {side} rib {number}",
)


def made_reports(number: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Reports, and the patients that they are of: two reports each on average."""
    random = np.random.default_rng(seed)
    reports = []
    for _ in range(number):
        sentences = list(random.choice(NORMAL, size=random.integers(4, 8), replace=False))
        if random.random() > 0.25:
            sentences += [_finding(random) for _ in range(random.integers(1, 5))]
            random.shuffle(sentences)
        reports.append(". ".join(sentences) + ".")
    return reports, [f"p{patient}" for patient in random.integers(number // 2 + 1, size=number)]


def _finding(random: np.random.Generator) -> str:
    return str(random.choice(FINDINGS)).format(
        size=random.choice(["small", "moderate", "large"]),
        side=random.choice(["left", "right"]),
        zone=random.choice(["upper", "mid", "lower"]),
        mm=random.integers(3, 31),
        number=random.integers(1, 13),
        code=f"x{int(random.exponential(300))}",  # words that few reports have
    )


def peak_bytes() -> int:
    # not resource.getrusage, whose peak a new process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def measured(number: int, chunk: int) -> dict[str, Any]:
    reports, patients = made_reports(number)
    started = time.perf_counter()
    embeddings = embed(TfidfEmbedder(), reports)
    embedded = time.perf_counter()
    rule = NeighbourRule(groups_of(reports, patients), ceiling=CEILING, k=K)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = peak_bytes()
    searching = time.perf_counter()
    nearest = ChunkedSearch(chunk)(embeddings, rule, track=lambda chunks: tqdm(chunks, leave=False, mininterval=10))
    return {
        "embedding": embedded - started,
        "search": time.perf_counter() - searching,
        "peak_mib": (peak_bytes() - before) / MIB,
        "result_mib": sum(part.nbytes for part in (nearest.index, nearest.scores, nearest.above)) / MIB,
        "vocabulary": embeddings.shape[1],
        "wrong": wrong_rows(embeddings, rule, nearest),
    }


def wrong_rows(embeddings: Any, rule: NeighbourRule, nearest: Neighbours) -> int:
    """Of some studies, how many have other scores than brute force finds, or a neighbour that does not have its score."""
    wrong = 0
    every = np.arange(len(nearest.index))
    for study in np.random.default_rng(1).choice(every, size=min(CHECKED, len(every)), replace=False):
        scores = (embeddings.astype(np.float64) @ embeddings[study].toarray()[0].astype(np.float64)).astype(np.float32)
        allowed = ~rule.is_match(np.full(len(every), study), every) & ~rule.is_above(scores)
        best = np.sort(np.where(allowed, scores, -np.inf))[::-1][:K]
        found = nearest.index[study]
        right = np.allclose(nearest.scores[study], best, atol=1e-6) and np.allclose(scores[found], best, atol=1e-6)
        wrong += not (right and allowed[found].all())
    return wrong


def run(number: int, chunk: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(number), str(chunk)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(printed)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--chunks", type=int, nargs="+", default=[256])
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(measured(*chosen.one)))
        return
    print(f"TF-IDF, k {K}, ceiling {CEILING}, {os.cpu_count()} cores of which one is used")
    print(
        f"{'reports':>8} {'chunk':>6} {'words':>6} {'embedding s':>12} {'search s':>9} {'peak MiB':>9} {'of it result':>13} wrong"
    )
    results = []
    for number in chosen.reports:
        for chunk in chosen.chunks:
            row = run(number, chunk)
            results.append({"reports": number, "chunk": chunk, **row})
            print(
                f"{number:8} {chunk:6} {row['vocabulary']:6} {row['embedding']:12.1f} {row['search']:9.1f} {row['peak_mib']:9.1f} "
                f"{row['result_mib']:13.1f} {row['wrong']} of {min(CHECKED, number)}",
                flush=True,
            )
    print(json.dumps({"benchmark": "mining", "rows": results}))


if __name__ == "__main__":
    main()
