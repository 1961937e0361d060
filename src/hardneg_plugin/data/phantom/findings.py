"""The findings of phantom studies: their attributes, which can occur together, and how they are drawn at random."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from numpy.random import Generator

Value = str | int | bool

SIDES = ("left", "right")
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")

ATTRIBUTES: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "cardiomegaly": {"grade": ("mild", "moderate", "severe")},
    "pleural effusion": {"side": SIDES, "size": ("small", "moderate", "large")},
    "pneumothorax": {"side": SIDES, "size": ("small", "large")},
    "consolidation": {"lobe": LOBES},
    "nodule": {"calcified": (False, True), "mm": (6, 10, 15, 20), "side": SIDES, "zone": ("upper", "mid", "lower")},
    "atelectasis": {"band": ("mid", "base"), "side": SIDES},
    "oedema": {},
    "hyperinflation": {},
    "elevated hemidiaphragm": {"side": SIDES},
    "tortuous aorta": {},
    "scoliosis": {"direction": SIDES},
    "rib fracture": {"number": (4, 5, 6, 7, 8), "side": SIDES},
    "pacemaker": {"side": SIDES},
    "central line": {"side": SIDES},
}
"""Every finding and the values of its attributes; attributes are in alphabetical order."""

COUNT_SHARES = (0.45, 0.3, 0.17, 0.08)
"""Shares of the abnormal studies with one, two, three and four findings."""


class Finding(NamedTuple):
    """One finding; it equals the plain tuple `(name, attributes)`."""

    name: str
    attributes: tuple[tuple[str, Value], ...] = ()
    """Pairs `(key, value)` in alphabetical order of the keys; a finding read from a text may lack some."""

    def value(self, key: str) -> Value:
        """The value of an attribute; KeyError if the finding does not have it."""
        return dict(self.attributes)[key]


def finding(name: str, **attributes: Value) -> Finding:
    """A finding with its attributes in order.

    >>> finding("pleural effusion", size="small", side="left")
    Finding(name='pleural effusion', attributes=(('side', 'left'), ('size', 'small')))
    """
    return Finding(name, tuple(sorted(attributes.items())))


def canonical(findings: Iterable[Finding]) -> str:
    """One text per set of findings, attributes included: the same for every order, "" for none."""
    return "; ".join(sorted(" ".join([name, *(f"{k}={v}" for k, v in attributes)]) for name, attributes in findings))


def territory(of: Finding) -> frozenset[str]:
    """The parts of the chest that a finding occupies; findings that share a part do not occur in one study.

    This rules out what is impossible (an effusion on the side of a raised diaphragm) and what would be invisible (a nodule
    behind an effusion), so that the image shows every finding of the report.
    """
    name, values = of.name, dict(of.attributes)
    side = str(values.get("side"))
    zones: tuple[str, ...]
    match name:
        case "cardiomegaly":
            return frozenset({"heart"})
        case "hyperinflation":
            return frozenset({"heart", "diaphragm", "interstitium", "left lower", "right lower"})
        case "oedema":
            return frozenset({"interstitium", "left mid", "right mid"})
        case "pleural effusion":
            zones = ("lower",) if values["size"] == "small" else ("lower", "mid")
        case "pneumothorax":
            zones = ("upper", "mid", "ribs")
        case "elevated hemidiaphragm":
            return frozenset({f"{side} lower", "diaphragm"})
        case "consolidation":
            side, lobe = str(values["lobe"]).split()
            zones = {"upper": ("upper",), "middle": ("mid", "lower"), "lower": ("lower",)}[lobe]
        case "nodule":
            zones = (str(values["zone"]),)
        case "atelectasis":
            zones = ("mid",) if values["band"] == "mid" else ("lower",)
        case "rib fracture":
            zones = ("ribs",)
        case _:  # the spine, the aorta and devices hide nothing
            return frozenset()
    taken = {f"{side} {zone}" for zone in zones}
    # A large heart hides what lies beside it, except fluid along the ribs.
    hidden = {"heart"} if "left lower" in taken and name != "pleural effusion" else set()
    return frozenset(taken | hidden)


def draw_findings(rng: Generator, normal_share: float) -> frozenset[Finding]:
    """The findings of a random study.

    Args:
        rng: the only source of randomness.
        normal_share: probability, in [0, 1], of no finding; otherwise one to four that can occur together.
    """
    if rng.random() < normal_share:
        return frozenset()
    count = 1 + int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))
    chosen: list[Finding] = []
    taken: set[str] = set()
    # Names in random order, each tried once: 14 names always contain four that can occur together.
    for name in rng.permutation(list(ATTRIBUTES)):
        candidate = Finding(
            str(name),
            tuple((key, values[rng.integers(len(values))]) for key, values in ATTRIBUTES[str(name)].items()),
        )
        parts = territory(candidate)
        if taken.isdisjoint(parts):
            chosen.append(candidate)
            taken |= parts
        if len(chosen) == count:
            break
    return frozenset(chosen)
