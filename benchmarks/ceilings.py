"""How high specificity in words can be on the built-in studies: what reports of exactly the right findings score.

Which normal sentences a report has, and how it words its findings, is chance there. Prints a table and a JSON line.

    python benchmarks/ceilings.py [--studies 400] [--draws 5]
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.random import Generator

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.findings import Finding
from hardneg_plugin.data.phantom.grammar import say, write_report
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.metrics.peers import Peers


def stated(text: str, read: Callable[[str], Iterable[Any]]) -> list[Finding]:
    """The findings of a report as they were drawn."""
    return [Finding(name, tuple(attributes)) for name, attributes in read(text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    source = PhantomStudies(train=1, val=1, test=arguments.studies)
    split = source.split("test")
    clean = WordTokenizer.from_reports(split.reports, min_count=1).clean
    references = [clean(text) for text in split.reports]
    peers = Peers.of(references, labels=split.labels)
    findings = [stated(text, source.read_findings) for text in split.reports]
    is_normal = np.array([not found for found in findings])

    def written(rng: Generator) -> list[str]:
        return [clean(write_report(found, rng)) for found in findings]

    def only_findings(rng: Generator) -> list[str]:
        return [clean(" ".join(f"{say(one, rng)}." for one in found)) for found in findings]

    def normal(rng: Generator) -> list[str]:
        return [clean(write_report([], rng))] * len(findings)

    kinds = {
        "the right findings in other words, other normal sentences": written,
        "the right findings in other words, nothing else": only_findings,
        "one and the same normal report": normal,
    }
    figures = {}
    print("| reports | specificity | of abnormal studies |\n|---|---|---|")
    for name, write in kinds.items():
        draws = [peers.specificity(write(np.random.default_rng(seed))) for seed in range(arguments.draws)]
        whole = [float(np.nanmean(draw)) for draw in draws]
        abnormal = [float(np.nanmean(draw[~is_normal])) for draw in draws]
        figures[name] = (statistics.mean(whole), statistics.mean(abnormal))
        print(f"| {name} | {figures[name][0]:.3f} ({min(whole):.3f} - {max(whole):.3f}) | {figures[name][1]:.3f} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
