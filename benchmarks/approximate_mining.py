"""CPU seconds, memory and recall of approximate mining, beside the exact search.

The made-up reports of benchmarks/mining.py, with a label set each: the kinds of their findings. Embedded by TF-IDF, and as dense
vectors of width 256: the TF-IDF rows, projected at random. Each backend and effort is a process of its own on one thread. Recall is
the share of the exact k neighbours of 1,000 of the studies that are found; a neighbour that is as near as the k-th counts. Exact
seconds are those of these studies, times their share. Prints a table for docs/DATA.md and a JSON line.

    python benchmarks/approximate_mining.py [--reports 200000] [--backends ivf ivf_pq hnsw] [--efforts 1 4]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mining import CEILING, FINDINGS, MIB, NORMAL, K, made_reports, peak_bytes

from hardneg_plugin.neighbours.approximate import ApproximateSearch
from hardneg_plugin.neighbours.candidates import KINDS
from hardneg_plugin.neighbours.embedders import TextEmbeddings, TfidfEmbedder, embed
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.neighbours.search import NeighbourRule, Neighbours, exact_neighbours

SAMPLE, CHUNK, WIDTH = 1_000, 256, 256
MARKS = [max(text.replace("{", "}").split("}")[::2], key=len).strip() for text in FINDINGS]
"""What is the same in all sentences with a finding."""


def label_set(report: str) -> str:
    abnormal = " ".join(sentence for sentence in report.rstrip(".").split(". ") if sentence not in NORMAL)
    return " ".join(str(number) for number, mark in enumerate(MARKS) if mark in abnormal)


def embedded(kind: str, reports: Sequence[str]) -> TextEmbeddings:
    rows = embed(TfidfEmbedder(), reports)
    if kind == "tfidf":
        return rows
    directions = np.random.default_rng(2).normal(size=(rows.shape[1], WIDTH)).astype(np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(rows @ directions), dim=1)


def measured(number: int, kind: str, backend: str, effort: float) -> dict[str, Any]:
    reports, patients = made_reports(number)
    labels = [label_set(report) for report in reports]
    embeddings = embedded(kind, reports)
    rule = NeighbourRule(groups_of(reports, patients, labels), ceiling=CEILING, k=K)
    sample = np.sort(np.random.default_rng(1).permutation(number)[:SAMPLE])
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before, started = peak_bytes(), time.process_time()
    if backend == "exact":
        for start in range(0, len(sample), CHUNK):
            exact_neighbours(embeddings, sample[start : start + CHUNK], rule)
        seconds = (time.process_time() - started) * number / len(sample)
        return {"seconds": seconds, "peak_mib": (peak_bytes() - before) / MIB, "recall": 1.0, "filled": 1.0}
    with tempfile.TemporaryDirectory() as folder:
        found = ApproximateSearch(backend, Path(folder), effort, CHUNK)(embeddings, rule)
    seconds, peak = time.process_time() - started, (peak_bytes() - before) / MIB
    return {"seconds": seconds, "peak_mib": peak, **recalled(embeddings, rule, sample, found)}


def recalled(embeddings: TextEmbeddings, rule: NeighbourRule, sample: Any, found: Neighbours) -> dict[str, float]:
    exact = Neighbours.none(len(found.index), rule.k)
    for start in range(0, len(sample), CHUNK):
        exact = exact_neighbours(embeddings, sample[start : start + CHUNK], rule).written_into(exact)
    there, right = exact.index[sample] >= 0, 0
    for study in sample:
        least = exact.scores[study][exact.index[study] >= 0].min(initial=np.inf)
        right += int(((found.index[study] >= 0) & (found.scores[study] >= least - 1e-6)).sum())
        assert not rule.is_match(np.full(rule.k, study), found.index[study])[found.index[study] >= 0].any()
    filled = (found.index[sample] >= 0).sum() / there.sum()
    return {"recall": right / int(there.sum()), "filled": float(filled)}


def run(*settings: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", *map(str, settings)]
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ).stdout
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=200_000)
    parser.add_argument("--embeddings", nargs="+", default=["tfidf", "dense"])
    parser.add_argument("--backends", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--efforts", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # in a process of its own
    chosen = parser.parse_args(arguments)
    if chosen.one:
        number, kind, backend, effort = chosen.one
        print(json.dumps(measured(int(number), kind, backend, float(effort))))
        return
    print(f"{chosen.reports:,} reports, k {K}, ceiling {CEILING}, one thread\n")
    print("| embeddings | backend | effort | CPU s | peak MiB | recall@5 |\n|---|---|---|---|---|---|")
    rows = []
    for kind in chosen.embeddings:
        settings = [("exact", 1.0), *((backend, effort) for backend in chosen.backends for effort in chosen.efforts)]
        for backend, effort in settings:
            row = run(chosen.reports, kind, backend, effort)
            rows.append({"embeddings": kind, "backend": backend, "effort": effort, **row})
            told = "" if backend == "exact" else f"{effort:g}"
            print(
                f"| {kind} | {backend} | {told} | {row['seconds']:.0f} | {row['peak_mib']:.0f} | {row['recall']:.3f} |",
                flush=True,
            )
    print(json.dumps({"benchmark": "approximate_mining", "reports": chosen.reports, "rows": rows}))


if __name__ == "__main__":
    main()
