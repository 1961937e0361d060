"""What each score sees: reports with known faults, written for the studies of the phantom.

The references themselves; their findings in other words among other normal sentences; one normal report for every study; the
report of another study; and the references with one finding dropped, on the other side, or made up. In these only one sentence
differs, in the studies that allow it. Every edit is read again. Prints a table and a JSON line.

    python benchmarks/what_scores_see.py [--studies 1000] [--regime clinic]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from numpy.random import Generator, default_rng

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.findings import Finding, draw_findings
from hardneg_plugin.data.phantom.grammar import say, write_report
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.evaluation.baselines import most_frequent_report
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.findings import Findings
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import make_record

SHOWN = (
    "BLEU-4",
    "specificity",
    "findings_F1",
    "findings_attributes_F1",
    "findings_F1_rare",
    "informativeness",
)
OTHER_SIDE = {"left": "right", "right": "left"}
Read = Callable[[str], Findings]
Edit = Callable[[str, Generator, Read], str]


def sentences(report: str) -> list[str]:
    return [f"{text}." for text in report.removesuffix(".").split(". ")]


def drop_one(report: str, rng: Generator, read: Read) -> str:
    """Without one of the sentences that state a finding."""
    written = sentences(report)
    stating = [i for i, sentence in enumerate(written) if len(read(sentence)) == 1]
    if not stating:
        return report
    place = stating[rng.integers(len(stating))]
    return " ".join(written[:place] + written[place + 1 :])


def flip_one(report: str, rng: Generator, read: Read) -> str:
    """With "left" and "right" exchanged in one of the sentences that state a finding with a side."""
    written = sentences(report)
    flipped = [" ".join(OTHER_SIDE.get(word, word) for word in text.replace("-", " - ").split()) for text in written]
    flipped = [text.replace(" - ", "-") for text in flipped]
    placed = [i for i, pair in enumerate(zip(written, flipped, strict=True)) if one_differs(*map(read, pair))]
    if not placed:
        return report
    place = placed[rng.integers(len(placed))]
    return " ".join([*written[:place], flipped[place], *written[place + 1 :]])


def one_differs(before: Findings, after: Findings) -> bool:
    """Whether both have one finding, of one name, with as many attributes, not all alike."""
    if before == after or len(before) != 1 or len(after) != 1:
        return False
    ((name, attributes),), ((other_name, others),) = before, after
    return name == other_name and len(tuple(attributes)) == len(tuple(others))  # type: ignore[arg-type]


def add_one(report: str, rng: Generator, read: Read) -> str:
    """With a sentence in front that states a finding which the report does not."""
    stated = {name for name, _ in read(report)}
    made_up = sorted(draw_findings(rng, 0))[0]
    return report if made_up.name in stated else f"{say(made_up, rng)} {report}"


def edited(reports: Sequence[str], edit: Edit, read: Read, seed: int) -> tuple[list[str], int]:
    """The reports after the edit, and how many changed."""
    after = [edit(text, default_rng((seed, i)), read) for i, text in enumerate(reports)]
    for before, text in zip(reports, after, strict=True):
        changed = read(before) ^ read(text)
        if text != before and len(changed) != (2 if edit is flip_one else 1):
            raise ValueError(f"Expected one finding to change, but got {sorted(changed)} from {before!r} to {text!r}.")
    return after, sum(one != other for one, other in zip(reports, after, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--regime", default="uniform")
    arguments = parser.parse_args()
    options: dict[str, Any] = {} if arguments.regime == "uniform" else {"regime": arguments.regime}
    source = PhantomStudies(train=1, val=1, test=arguments.studies, **options)
    split, read = source.split("test"), source.read_findings
    reports = list(split.reports)
    clean = WordTokenizer.from_reports(reports, min_count=1).clean
    rng = default_rng(0)
    said = [[Finding(name, attributes) for name, attributes in read(text)] for text in reports]  # type: ignore[arg-type]
    normal = most_frequent_report([text for text, of in zip(reports, said, strict=True) if not of])
    kinds = {
        "the reference": reports,
        "its findings in other words": [write_report(of, rng) for of in said],
        "one normal report for all": [normal] * len(reports),
        "the report of another study": reports[1:] + reports[:1],
    }
    for name, edit in (("one finding dropped", drop_one), ("one side flipped", flip_one), ("one made up", add_one)):
        after, changed = edited(reports, edit, read, seed=1)
        kinds[f"the reference, {name} ({changed / len(reports):.0%} of studies)"] = after
    figures = {}
    print(f"| reports | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for name, generated in kinds.items():
        records = [
            make_record(study, clean(reference), clean(text), labels=labels, read_findings=read)
            for study, reference, text, labels in zip(split.ids, reports, generated, split.labels, strict=True)
        ]
        values = score_records(records, caption=CaptionScores(meteor=False)).values
        figures[name] = {score: values[score] for score in SHOWN}
        print(f"| {name} | {' | '.join(f'{values[score]:.3f}' for score in SHOWN)} |", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
