"""How many reports offer edits, and how many of these read as intended before those that do not are dropped.

    python benchmarks/edits.py                # reports of the phantom, both regimes
    python benchmarks/edits.py ANNOTATION     # English reports of an annotation.json in the R2Gen layout

The third number is about the phantom alone, whose findings are known: the share of the findings that edits state and that the
study has all the same, as its report leaves them out.
"""

import json
import sys
from pathlib import Path

import numpy as np

from hardneg_plugin.data.phantom import PhantomEdits, PhantomStudies
from hardneg_plugin.knowledge import EnglishEdits
from hardneg_plugin.knowledge.english_edits import reads_so


def main() -> None:
    """Print one line for each kind of text and number of changes."""
    if len(sys.argv) > 1:
        annotation = json.loads(Path(sys.argv[1]).read_text())
        for split, studies in annotation.items():
            _english(split, [study["report"] for study in studies])
    else:
        for regime in ("uniform", "clinic"):
            _phantom(regime)


def _english(split: str, reports: list[str]) -> None:
    edit = EnglishEdits()
    for n in (1, 2, 3):
        made = [edit.propose(report, n, np.random.default_rng((index, n))) for index, report in enumerate(reports)]
        exact = [reads_so(one) for one in made if one is not None]
        print(f"{split}, {n} changed: {len(exact)} of {len(reports)} reports, {np.mean(exact):.2%} read so")


def _phantom(regime: str) -> None:
    split, edit = PhantomStudies(train=4000, size=32, regime=regime).split("train"), PhantomEdits(regime)
    for n in (1, 2, 3):
        exact, there = [], []
        for index, report in enumerate(split.reports):
            edited = edit.propose(report, n, np.random.default_rng((index, n)))
            if edited is None:
                continue
            exact.append(edit.reads_so(report, edited))
            names = {found.name for found in split.findings[index]}
            there += [change.name in names for change in edited.changes if change.before is None]
        print(
            f"{regime}, {n} changed: {len(exact)} of {len(split)} reports, {np.mean(exact):.2%} read so; "
            f"{np.mean(there):.2%} of {len(there)} stated findings are there"
        )


if __name__ == "__main__":
    main()
