"""How like real reports those of the built-in studies are: one table of IU X-Ray and of both regimes of the phantom.

`data/phantom/clinic.py` holds the shares that are fitted to the first column. Of IU X-Ray, the indexing of a study stands for its
findings, and what its report says of them is read by the rules of `knowledge/`. Who indexed had the whole report and no image, so
what nobody wrote down is missing. Texts are the training reports of R2Gen's split, and as many of the phantom. Last,
weights by which the clinic draws each finding as often as IU X-Ray has it.

    python benchmarks/clinic_fit.py FOLDER      # with annotation.json of R2Gen and NLMCXR_reports.tgz
"""

import argparse
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from entities import is_heading

from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.data.downloads.archives import read_members
from hardneg_plugin.data.downloads.iu_xray import read_report
from hardneg_plugin.data.phantom import PhantomStudies, clinic
from hardneg_plugin.data.phantom.clinic import Statement
from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.knowledge import Presence, read_entities
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.neighbours.embedders import TfidfEmbedder

HEADINGS: Mapping[str, Sequence[str]] = {
    "nodule": ("Nodule", "Granuloma", "Calcified Granuloma", "Mass"),
    "cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged", "Heart/enlarged"),
    "atelectasis": ("Pulmonary Atelectasis",),
    "hyperinflation": (
        "Lung/hyperdistention",
        "Lung, Hyperlucent",
        "Emphysema",
        "Pulmonary Emphysema",
        "Pulmonary Disease, Chronic Obstructive",
        "Diaphragm/flattened",
    ),
    "tortuous aorta": ("Aorta/tortuous", "Aorta, Thoracic/tortuous"),
    "consolidation": ("Consolidation", "Airspace Disease", "Infiltrate", "Pneumonia"),
    "pleural effusion": ("Pleural Effusion", "Hydropneumothorax", "Costophrenic Angle/blunted"),
    "elevated hemidiaphragm": ("Diaphragm/elevated", "Diaphragmatic Eventration"),
    "central line": ("Catheters, Indwelling",),
    "scoliosis": ("Scoliosis",),
    "oedema": ("Pulmonary Edema", "Pulmonary Congestion"),
    "pacemaker": ("Implanted Medical Device", "Medical Device"),
    "rib fracture": ("Fractures, Bone/ribs",),
    "pneumothorax": ("Pneumothorax", "Hydropneumothorax"),
}
"""By finding of the phantom: the headings, and where one has to have it a qualifier after the slash."""

ENTITIES: Mapping[str, Sequence[str]] = {name: (name,) for name in HEADINGS} | {
    "nodule": ("nodule", "granuloma", "calcified granuloma", "mass", "granulomatous disease", "calcification"),
    "hyperinflation": (
        "hyperinflation",
        "emphysema",
        "chronic obstructive pulmonary disease",
        "flattened diaphragm",
    ),
    "consolidation": ("consolidation", "airspace disease", "infiltrate", "pneumonia", "opacity"),
    "pleural effusion": ("pleural effusion", "blunted costophrenic angle"),
    "oedema": ("pulmonary edema", "pulmonary congestion", "heart failure"),
    "rib fracture": ("rib fracture", "fracture"),
}
"""By finding: the entities of `knowledge/` that a report may name it as."""

GRADES: Sequence[tuple[str, str, str, Mapping[str, Sequence[str]]]] = (
    ("mild, of graded cardiomegaly", "cardiomegaly", "grade",
     {"mild": ("mild", "borderline"), "moderate": ("moderate",), "severe": ("severe",)}),
    ("small, of sized effusions", "pleural effusion", "size",
     {"small": ("small", "mild"), "moderate": ("moderate",), "large": ("large",)}),
    ("lower, of placed consolidations", "consolidation", "lobe",
     {"lower": ("lower lobe", "base"), "middle": ("middle lobe", "lingula"), "upper": ("upper lobe",)}),
    ("base, of placed atelectasis", "atelectasis", "band",
     {"base": ("base", "lower lobe"), "mid": ("middle lobe", "lingula", "upper lobe")}),
)  # fmt: skip
"""Rows of the table: name, finding, attribute, and by value the qualifiers that mean it; the first value is counted."""

NEAR = 0.8
"""A report with another one at this cosine or above has a near copy."""


class Study(NamedTuple):
    """What is known of one study."""

    findings: frozenset[str]
    statements: Mapping[str, Statement]
    values: Mapping[tuple[str, str], str]
    """By finding and attribute of `GRADES`."""


class Corpus(NamedTuple):
    """One column of the table."""

    name: str
    studies: Sequence[Study]
    """With known findings."""
    train: Sequence[str]
    """Reports, cleaned."""
    test: Sequence[str]


def iu_xray(folder: Path) -> Corpus:
    """IU X-Ray: studies are those of R2Gen's split that are indexed.

    Args:
        folder: with annotation.json and NLMCXR_reports.tgz.
    """
    annotation = json.loads((folder / "annotation.json").read_text())
    reports = {entry["id"]: entry["report"] for split in annotation.values() for entry in split}
    archive = folder / "NLMCXR_reports.tgz"
    studies = []
    for member in read_members(archive, suffix=".xml"):
        study, _ = read_report(member, archive)
        if study.id in reports and study.labels is not None:
            studies.append(_indexed(study.labels.split("|"), reports[study.id]))
    train, test = ([clean(entry["report"]) for entry in annotation[split]] for split in ("train", "test"))
    return Corpus("IU X-Ray", studies, train, test)


def _indexed(headings: Collection[str], report: str) -> Study:
    own = {
        name: [heading for heading in headings if any(is_heading(heading, wanted) for wanted in among)]
        for name, among in HEADINGS.items()
    }
    read = read_entities(report)
    values = {}
    for _, name, key, words in GRADES:
        qualifiers = {part.strip().lower() for heading in own[name] for part in heading.split("/")[1:]}
        if said := [value for value, among in words.items() if qualifiers.intersection(among)]:
            values[name, key] = said[0]
    findings = frozenset(name for name, has in own.items() if has)
    return Study(findings, {name: _said(read, name) for name in findings}, values)


def _said(read: Mapping[str, Presence], name: str) -> Statement:
    highest = max((read[entity] for entity in ENTITIES[name] if entity in read), default=Presence.ABSENT)
    return {Presence.PRESENT: Statement.STATED, Presence.UNCERTAIN: Statement.HEDGED}.get(highest, Statement.LEFT_OUT)


def phantom(regime: str, like: Corpus) -> Corpus:
    """A regime of the phantom, with as many reports.

    Args:
        regime: its name.
        like: IU X-Ray.
    """
    source = PhantomStudies(train=len(like.train), val=0, test=len(like.test), regime=regime)
    many = PhantomStudies(train=20000, regime=regime).split("train")  # the rarest is one of 200
    studies = [
        Study(
            frozenset(found.name for found in statements),
            {found.name: said for found, said in statements.items()},
            {
                (found.name, key): str(found.value(key)).removeprefix("left ").removeprefix("right ")
                for found in statements
                for _, name, key, _ in GRADES
                if found.name == name
            },
        )
        for statements in many.statements
    ]
    return Corpus(
        f"phantom, {regime}", studies, *([*map(clean, source.split(name).reports)] for name in ("train", "test"))
    )


def clean(report: str) -> str:
    """A report as models learn it."""
    return " ".join(CLEANINGS["iu_xray"](report).split())


def findings_figures(corpus: Corpus) -> dict[str, str]:
    """Frequency, co-occurrence and severity of findings, and what becomes of them.

    Args:
        corpus: the column.
    """
    studies = corpus.studies
    share = {name: _share(studies, {name}) for name in ATTRIBUTES}
    counts = Counter(len(study.findings) for study in studies)
    figures = {"studies without any of the 14 findings": _percent(counts[0] / len(studies))}
    for count in (1, 2, 3):
        figures[f"... with {count}"] = _percent(counts[count] / len(studies))
    figures["... with 4 or more"] = _percent(sum(n for count, n in counts.items() if count > 3) / len(studies))
    for name in HEADINGS:
        figures[name] = _percent(share[name], 1)
    for one, other in (
        ("cardiomegaly", "oedema"),
        ("pleural effusion", "consolidation"),
        ("atelectasis", "pleural effusion"),
        ("nodule", "tortuous aorta"),
    ):
        figures[f"{one} with {other}, times chance"] = f"{_lift(studies, one, other):.1f}"
    for row, name, key, words in GRADES:
        said = [study.values[name, key] for study in studies if (name, key) in study.values]
        figures[row] = _percent(np.mean([value == next(iter(words)) for value in said]))
    said_of = Counter(said for study in studies for said in study.statements.values())
    for statement in Statement:
        figures[f"findings {statement.value} in the report"] = _percent(said_of[statement] / said_of.total(), 1)
    return figures


def _share(studies: Sequence[Study], names: Collection[str]) -> float:
    return float(np.mean([study.findings.issuperset(names) for study in studies]))


def _lift(studies: Sequence[Study], one: str, other: str) -> float:
    return _share(studies, {one, other}) / _share(studies, {one}) / _share(studies, {other})


def text_figures(corpus: Corpus) -> dict[str, str]:
    """Repetition, variety and abnormal sentences of the training reports.

    Args:
        corpus: the column.
    """
    reports = corpus.train
    times = Counter(reports)
    rows = TfidfEmbedder()(reports)
    cosines = (rows @ rows.T).toarray()
    np.fill_diagonal(cosines, -1)
    nearest = cosines.max(axis=1)
    lengths = [len(report.split()) for report in reports]
    words = Counter(word for report in reports for word in report.split())
    sentences = [[part.strip(" .") for part in report.split(" . ") if part.strip(" .")] for report in reports]
    everything = [sentence for of_report in sentences for sentence in of_report]
    read = {sentence: _present(sentence) for sentence in set(everything)}
    known = {entity for among in ENTITIES.values() for entity in among}
    abnormal = [any(read[sentence] for sentence in of_report) for of_report in sentences]
    edits = _edits(
        [frozenset(of_report) for of_report, is_abnormal in zip(sentences, abnormal, strict=True) if is_abnormal],
        {frozenset(of_report) for of_report, is_abnormal in zip(sentences, abnormal, strict=True) if not is_abnormal},
    )
    most_frequent = times.most_common(1)[0][0]
    score = CaptionScores(meteor=False)([most_frequent] * len(corpus.test), corpus.test).values
    return {
        "reports with an identical sibling": _percent(np.mean([times[report] > 1 for report in reports]), 1),
        "share of the most frequent report": _percent(times[most_frequent] / len(reports), 1),
        f"nearest other report at TF-IDF cosine > {NEAR}": _percent(np.mean(nearest > NEAR), 1),
        "nearest cosine, quantiles .1, .25, .5, .75, .9": ", ".join(
            f"{q:.2f}" for q in np.quantile(nearest, (0.1, 0.25, 0.5, 0.75, 0.9))
        ),
        "words of a report, mean (5 %, 95 %)": "{:.1f} ({:.0f}, {:.0f})".format(
            float(np.mean(lengths)), *map(float, np.quantile(lengths, (0.05, 0.95)))
        ),
        "different words, at least 3 times": str(sum(count >= 3 for count in words.values())),
        "sentences of a report": f"{len(everything) / len(reports):.1f}",
        "different sentences, of all": _percent(len(read) / len(everything)),
        "... of those that state something abnormal": _percent(
            sum(map(bool, read.values())) / sum(bool(read[one]) for one in everything)
        ),
        "sentences that state something abnormal": _percent(np.mean([bool(read[one]) for one in everything])),
        "... one of the 14 findings": _percent(np.mean([not known.isdisjoint(read[one]) for one in everything])),
        "reports without such a sentence": _percent(1 - np.mean(abnormal)),
        "abnormal reports 1 or 2 sentences from a normal one": _percent(np.mean([edit <= 2 for edit in edits])),
        "BLEU-4 of the most frequent report on test": f"{score['BLEU-4']:.3f}",
    }


def _present(sentence: str) -> frozenset[str]:
    return frozenset(name for name, presence in read_entities(sentence).items() if presence == Presence.PRESENT)


def _edits(abnormal: Iterable[frozenset[str]], normal: Collection[frozenset[str]]) -> list[int]:
    """By abnormal report: the least number of sentences to replace, add or remove to make it one of the normal reports."""
    return [min(max(len(report - other), len(other - report)) for other in normal) for report in abnormal]


def fitted_weights(studies: Sequence[Study], rounds: int = 7, draws: int = 30000) -> dict[str, float]:
    """Weights by which `draw_clinic_findings` draws each finding as often as given studies have it.

    Args:
        studies: of IU X-Ray.
        rounds: of correction.
        draws: studies drawn in each.
    """
    wanted = {name: sum(name in study.findings for study in studies) / len(studies) for name in HEADINGS}
    weights = dict(wanted)
    for number in range(rounds):
        drawn = Counter(
            found.name
            for index in range(draws)
            for found in clinic.draw_clinic_findings(np.random.default_rng((number, index)), weights=weights)
        )
        weights = {name: weight * wanted[name] * draws / drawn[name] for name, weight in weights.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _percent(share: float | np.floating[Any], digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    real = iu_xray(parser.parse_args().folder)
    corpora = [real, phantom("clinic", real), phantom("uniform", real)]
    columns = [findings_figures(corpus) | text_figures(corpus) for corpus in corpora]
    print(f"{len(real.studies)} studies, {len(real.train)} training reports of IU X-Ray\n")
    print("| | " + " | ".join(corpus.name for corpus in corpora) + " |\n|---|" + "---|" * len(corpora))
    for row in columns[0]:
        print(f"| {row} | " + " | ".join(column[row] for column in columns) + " |")
    pairs = [sorted(pair) for pair in clinic.LIFTS]
    print("\ntogether, times chance, in IU X-Ray and the clinic:")
    for one, other in pairs:
        print(f"{one} with {other}: " + ", ".join(f"{_lift(corpus.studies, one, other):.1f}" for corpus in corpora[:2]))
    sentences = [{part for report in corpus.train for part in report.split(" . ")} for corpus in corpora[:2]]
    same = sorted(part for part in sentences[0] & sentences[1] if len(part.split()) > 4)
    print(f"\n{len(same)} sentences of five words or more, full stops counted, are in both: {same}")
    fitted = fitted_weights(real.studies)
    print("\nweights:", {name: round(weight, 4) for name, weight in fitted.items()})


if __name__ == "__main__":
    main()
