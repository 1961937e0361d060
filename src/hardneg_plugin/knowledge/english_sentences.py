"""The sentences of an English report, with the findings that each names."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from hardneg_plugin.knowledge.edit_words import DEGREE, RULES_OUT
from hardneg_plugin.knowledge.edits import Stated
from hardneg_plugin.knowledge.entities import ENTITIES, LUNG, POSITIONS, SIDES
from hardneg_plugin.knowledge.reader import SENTENCE_END, Mention, Presence, entity_patterns, read_mentions

PLACES = {entity.name: frozenset(entity.positions) for entity in ENTITIES}
"""By entity, the sides and zones that can be said of it."""


class NamedFinding(NamedTuple):
    """What one place of a sentence names: several entities where their words overlap."""

    names: frozenset[str]
    start: int
    end: int


class EnglishSentence(NamedTuple):
    """A sentence with what it names."""

    text: str
    findings: tuple[NamedFinding, ...]
    mentions: tuple[Mention, ...]

    def are_all(self, presence: Presence) -> bool:
        """Whether it names findings, and all of them in this way."""
        return bool(self.findings) and all(one.presence == presence for one in self.mentions)


def parts_of(report: str) -> list[tuple[str, str]]:
    """The sentences of a report, each with what ends it; joined they are the report."""
    ends = [(match.start(), match.end()) for match in SENTENCE_END.finditer(report.lower())]
    if len(report.lower()) != len(report):
        return [(report, "")]
    starts = [0, *(end for _, end in ends)]
    return [
        (report[start:end], report[end:after])
        for start, (end, after) in zip(starts, [*ends, (len(report), len(report))], strict=True)
    ]


@lru_cache(maxsize=2**16)
def read_sentence(text: str) -> EnglishSentence:
    """A sentence; one whose findings cannot be told apart has none."""
    spans = sorted(
        (match.start(), match.end(), name)
        for name, pattern in entity_patterns().items()
        for match in pattern.finditer(text.lower())
    )
    findings: list[NamedFinding] = []
    for start, end, name in spans:
        if findings and start < findings[-1].end:
            last = findings.pop()
            findings.append(NamedFinding(last.names | {name}, last.start, max(last.end, end)))
        else:
            findings.append(NamedFinding(frozenset({name}), start, end))
    mentions = tuple(read_mentions(text))
    is_clear = len(spans) == len({name for *_, name in spans}) and Counter(one.entity for one in mentions) == Counter(
        name for *_, name in spans
    )
    return EnglishSentence(text, tuple(findings) if is_clear else (), mentions)


def is_named_elsewhere(names: frozenset[str], texts: Sequence[str], at: int) -> bool:
    """Whether another sentence names one of these entities.

    Args:
        names: of entities.
        texts: the sentences.
        at: the index of the one that does not count.
    """
    return any(
        one.entity in names for place, text in enumerate(texts) if place != at for one in read_sentence(text).mentions
    )


def is_ruled_out(names: frozenset[str], others: Sequence[str]) -> bool:
    """Whether a sentence such as "the lungs are clear" rules one of these entities out.

    Args:
        names: of entities.
        others: sentences, in lower case.
    """
    in_lungs = any(PLACES[name] == frozenset(LUNG) for name in names)
    about = ["any", *(["lung"] if in_lungs else []), *(["heart"] if "cardiomegaly" in names else [])]
    return any(RULES_OUT[key].search(text) for key in about for text in others)


def as_stated(finding: NamedFinding, text: str) -> Stated:
    """A finding with the places and degrees that its sentence names.

    Args:
        finding: in it.
        text: of the sentence.
    """
    places = places_of(text)
    sides, zones = sorted(places & set(SIDES)), sorted(places - set(SIDES))
    keys = [("degree", word) for word in degrees_of(text)]
    name = max(sorted(finding.names), key=len)
    return name, (*keys, *(("side", side) for side in sides), *(("zone", zone) for zone in zones))


def places_of(text: str) -> frozenset[str]:
    """The sides and zones that a text names."""
    return frozenset(name for name, words in POSITIONS.items() if re.search(rf"\b(?:{words})\b", text.lower()))


def degrees_of(text: str) -> list[str]:
    """The words of degree in a text, in order."""
    return DEGREE.findall(text.lower())
