"""Questions about a phantom study, with answers from its findings."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from numpy.random import Generator

from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, draw_findings
from hardneg_plugin.data.phantom.grammar import written

KINDS = ("presence", "side", "size", "place")

WITHOUT_ARTICLE = frozenset({"cardiomegaly", "consolidation", "atelectasis", "oedema", "hyperinflation", "scoliosis"})
"""The findings whose names take no article."""

ABOUT: Mapping[tuple[str, str], tuple[str, str]] = {
    ("cardiomegaly", "grade"): ("size", "which grade is the cardiomegaly?"),
    ("pleural effusion", "size"): ("size", "how large is the pleural effusion?"),
    ("pneumothorax", "size"): ("size", "how large is the pneumothorax?"),
    ("consolidation", "lobe"): ("place", "in which lobe is the consolidation?"),
    ("nodule", "mm"): ("size", "how many mm is the nodule?"),
    ("nodule", "zone"): ("place", "in which zone is the nodule?"),
    ("atelectasis", "band"): ("place", "in which band is the atelectasis?"),
    ("scoliosis", "direction"): ("side", "to which side is the scoliosis convex?"),
    ("rib fracture", "number"): ("place", "which rib is fractured?"),
} | {
    (name, "side"): ("side", f"on which side is the {name}?")
    for name, attributes in ATTRIBUTES.items()
    if "side" in attributes
}
"""By finding and attribute: the kind and the text of the question whose answer is its value."""


class Question(NamedTuple):
    """One question with its answer, both in plain lower-case words."""

    kind: str
    """One of `KINDS`."""
    text: str
    answer: str


def ask(
    findings: Collection[Finding],
    rng: Generator,
    normal_share: float = 0.4,
    draw: Callable[[Generator, float], frozenset[Finding]] = draw_findings,
) -> list[Question]:
    """All questions about the attributes of a study's findings, and some about what it has and has not.

    Presence is asked of every finding that either this study or another one drawn from `rng` has, but not both. So each
    finding is asked about as often when present as when absent, and its name does not give the answer away.

    Args:
        findings: all findings of the study; attributes that one lacks are not asked about.
        rng: draws the other study.
        normal_share: share of normal studies, in [0, 1], that `findings` was drawn with, as in `PhantomStudies`; with another
            share, presence is not balanced.
        draw: drew `findings`: `draw` of the split's `regime`.

    Returns:
        Presence first, then the findings in alphabetical order; empty if neither study has a finding.
    """
    here, there = ({found.name for found in study} for study in (findings, draw(rng, normal_share)))
    presence = [
        Question("presence", f"is there {_article(name)}{name}?", "yes" if name in here else "no")
        for name in sorted(here ^ there)
    ]
    return presence + [
        Question(*ABOUT[found.name, key], written(key, value))
        for found in sorted(findings)
        for key, value in found.attributes
        if (found.name, key) in ABOUT
    ]


def _article(name: str) -> str:
    return "" if name in WITHOUT_ARTICLE else "an " if name.startswith("e") else "a "
