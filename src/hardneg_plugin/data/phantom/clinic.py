"""The findings of `regime=clinic`, and what becomes of them in a report: shares fitted to IU X-Ray.

`benchmarks/clinic_fit.py` prints each share beside that of IU X-Ray, where the indexing of a study stands for its findings.
"""

from collections.abc import Collection, Mapping
from enum import Enum

import numpy as np
from numpy.random import Generator

from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, Value, territory

NORMAL_SHARE = 0.573
"""Share of the studies with none of the findings of `ATTRIBUTES`."""

COUNT_SHARES = (0.637, 0.248, 0.082, 0.033)
"""Shares of the other studies with one, two, three and four findings."""

WEIGHTS: Mapping[str, float] = {
    "nodule": 0.196,
    "cardiomegaly": 0.145,
    "atelectasis": 0.136,
    "hyperinflation": 0.165,
    "tortuous aorta": 0.0753,
    "consolidation": 0.0643,
    "pleural effusion": 0.0507,
    "elevated hemidiaphragm": 0.0424,
    "central line": 0.0283,
    "scoliosis": 0.0327,
    "oedema": 0.0162,
    "pacemaker": 0.0206,
    "rib fracture": 0.0205,
    "pneumothorax": 0.0072,
}
"""How often each finding is drawn, relative to the others, before `LIFTS`: so that each is as frequent as in IU X-Ray."""

LIFTS: Mapping[frozenset[str], float] = {
    frozenset(pair): lift
    for *pair, lift in (
        ("cardiomegaly", "oedema", 25),
        ("pleural effusion", "oedema", 14),
        ("pleural effusion", "consolidation", 35),
        ("consolidation", "central line", 6),
        ("atelectasis", "consolidation", 11),
        ("pleural effusion", "central line", 6.5),
        ("atelectasis", "pleural effusion", 14),
        ("consolidation", "oedema", 8),
        ("cardiomegaly", "pleural effusion", 4.8),
        ("cardiomegaly", "elevated hemidiaphragm", 4),
        ("atelectasis", "elevated hemidiaphragm", 5.5),
        ("tortuous aorta", "elevated hemidiaphragm", 2.2),
        ("cardiomegaly", "tortuous aorta", 3),
    )
}
"""By how much the weight of one finding grows once the other is drawn; other pairs: 1.

Chosen so that these pairs occur together about as often as in IU X-Ray, where each does at least 2.5 times as often as by chance.
"""

VALUE_SHARES: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("cardiomegaly", "grade"): (0.82, 0.12, 0.06),
    ("pleural effusion", "size"): (0.81, 0.1, 0.09),
    ("consolidation", "lobe"): (0.08, 0.11, 0.41, 0.08, 0.32),
    ("nodule", "calcified"): (0.36, 0.64),
    ("nodule", "mm"): (0.5, 0.3, 0.13, 0.07),
    ("nodule", "side"): (0.4, 0.6),
    ("nodule", "zone"): (0.29, 0.3, 0.41),
    ("atelectasis", "band"): (0.19, 0.81),
    ("atelectasis", "side"): (0.56, 0.44),
    ("elevated hemidiaphragm", "side"): (0.34, 0.66),
    ("scoliosis", "direction"): (0.33, 0.67),
    ("central line", "side"): (0.44, 0.56),
}
"""Shares of an attribute's values, in the order of `ATTRIBUTES`; other attributes: equal shares."""

LEFT_OUT: Mapping[str, float] = {
    "oedema": 0.35,
    "atelectasis": 0.27,
    "central line": 0.26,
    "pacemaker": 0.4,
    "cardiomegaly": 0.2,
    "pneumothorax": 0.13,
    "scoliosis": 0.07,
}
"""Share of a finding's studies whose report does not mention it."""
OTHERS_LEFT_OUT = 0.05

HEDGED: Mapping[str, float] = {"atelectasis": 0.07, "oedema": 0.06, "pleural effusion": 0.04}
"""Share of a finding's studies whose report only says that it is possible."""
OTHERS_HEDGED = 0.025


class Statement(Enum):
    """What a study's report says of one of its findings."""

    STATED = "stated"
    HEDGED = "hedged"
    LEFT_OUT = "left out"


def draw_clinic_findings(
    rng: Generator, normal_share: float = NORMAL_SHARE, weights: Mapping[str, float] = WEIGHTS
) -> frozenset[Finding]:
    """The findings of a random study of the clinic.

    Args:
        rng: the only source of randomness.
        normal_share: probability, in [0, 1], of no finding; otherwise one to four that can occur together.
        weights: how often each finding is drawn, relative to the others, before `LIFTS`.
    """
    if rng.random() < normal_share:
        return frozenset()
    count = 1 + int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))
    chosen: list[Finding] = []
    taken: set[str] = set()
    left = dict(weights)
    while len(chosen) < count and left:
        names, shares = list(left), np.array(list(left.values()))
        name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        del left[name]
        candidate = Finding(name, tuple((key, _value(name, key, rng)) for key in ATTRIBUTES[name]))
        parts = territory(candidate)
        if taken.isdisjoint(parts):
            chosen.append(candidate)
            taken |= parts
            left = {other: weight * LIFTS.get(frozenset({name, other}), 1) for other, weight in left.items()}
    return frozenset(chosen)


def _value(name: str, key: str, rng: Generator) -> Value:
    values = ATTRIBUTES[name][key]
    return values[int(rng.choice(len(values), p=VALUE_SHARES.get((name, key))))]


def draw_statements(findings: Collection[Finding], rng: Generator) -> Mapping[Finding, Statement]:
    """What the report says of each finding, in alphabetical order.

    Args:
        findings: of the study.
        rng: draws it.
    """
    statements = {}
    for found, drawn in zip(sorted(findings), rng.random(len(findings)), strict=True):
        left_out = LEFT_OUT.get(found.name, OTHERS_LEFT_OUT)
        hedged = HEDGED.get(found.name, OTHERS_HEDGED)
        if drawn < left_out:
            statements[found] = Statement.LEFT_OUT
        else:
            statements[found] = Statement.HEDGED if drawn < left_out + hedged else Statement.STATED
    return statements
