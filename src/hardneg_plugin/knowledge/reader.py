"""Which entities a report states, denies or leaves open, by rules for negation and uncertainty in each clause.

After NegEx (Chapman et al., J Biomed Inform 2001): cues before or after a mention, whose scope ends with the clause.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from hardneg_plugin.knowledge.entities import ENTITIES, POSITIONS


class Presence(IntEnum):
    """What a report says of an entity; the highest of several mentions counts."""

    ABSENT = 0
    UNCERTAIN = 1
    PRESENT = 2


SENTENCE_END = re.compile(r"(?<!\d)\.(?!\d)|[;:\n?!]|\.(?=\s|$)")
# where a negation ends before its sentence does
_TURN = re.compile(
    r"\b(?:but|however|although|though|except(?: for)?|apart from|other than|aside from|besides|which|whereas|while|yet|"
    r"there (?:is|are)|(?:is|are) again|with (?=stable|mild|moderate|unchanged|persistent|residual|chronic|minimal))\b"
)
# looks like a negation, but denies only a change or a certainty
_NO_DENIAL = re.compile(
    r"\b(?:no|without|not) (?:(?:significant|interval|appreciable|definite|acute|substantial|other|further|overall) )*"
    r"(?:change|changes|changed|improvement|increase|worsening|progression|difference)\b|\bnot only\b|"
    r"\bcannot (?:be )?(?:entirely |completely )?(?:exclude|excluded|rule|ruled)(?: out)?\b|\bnot (?:excluded|ruled out)\b"
)
_BEFORE = re.compile(
    r"\b(?:no|not|without|absent|absence of|negative for|free of|free from|clear of|never|neither|nor|denies|deny|lack of|"
    r"rule out|ruled out for|resolved|resolution of|interval removal of|removal of|removed)\b"
)
_AFTER = re.compile(
    r"\b(?:(?:is|are|was|were|has been|have been) (?:not|no longer)\b|(?:is|are) absent|(?:has|have) (?:\w+ )?(?:resolved|cleared)|"
    r"not (?:seen|identified|visualized|evident|appreciated|present|demonstrated|noted|detected)|(?:has|have) been removed|"
    r"(?:is|are|appears?) (?:unremarkable|normal|within (?:the )?(?:normal )?limits)|ruled out|resolved)"
)
_OPEN = re.compile(
    r"\b(?:possib\w+|may|might|could|suspicio\w+|suspected|concern\w*|question\w*|cannot|versus|vs|equivocal|"
    r"not (?:excluded|ruled out)|suggest\w*|consider\w*|differential|uncertain|potential\w*|if (?:clinically )?\w+)\b"
)


_JOINT = re.compile(r"\b(?:and|with|or)\b|,")


@cache
def entity_patterns() -> Mapping[str, re.Pattern[str]]:
    """How each entity is written, in lower case, by its name."""
    return {entity.name: re.compile(rf"\b(?:{entity.written})\b") for entity in ENTITIES}


@cache
def _positions() -> Mapping[str, re.Pattern[str]]:
    return {name: re.compile(rf"\b(?:{written})\b") for name, written in POSITIONS.items()}


class Mention(NamedTuple):
    """One place in a report that names an entity."""

    entity: str
    presence: Presence
    positions: frozenset[str]
    """Keys of `POSITIONS` that are named beside it."""


def read_mentions(report: str) -> Iterator[Mention]:
    """Every mention of an entity, clause by clause.

    Args:
        report: as for `read_entities`.

    >>> [(name, presence.name, sorted(positions)) for name, presence, positions in read_mentions("Left effusion, no nodule.")]
    [('pleural effusion', 'PRESENT', ['left']), ('nodule', 'ABSENT', [])]
    """
    for sentence in SENTENCE_END.split(report.lower()):
        for clause in _clauses(" ".join(sentence.split())):
            mentions = [
                (name, mention) for name, pattern in entity_patterns().items() for mention in pattern.finditer(clause)
            ]
            parts = _parts(clause, [mention.span() for _, mention in mentions])
            for name, mention in mentions:
                beside = next(clause[start:end] for start, end in parts if start <= mention.start() < end)
                places = frozenset(place for place, pattern in _positions().items() if pattern.search(beside))
                yield Mention(name, _presence(clause, mention.start(), mention.end()), places)


def read_entities(report: str) -> dict[str, Presence]:
    """What a report says of the entities it mentions.

    Args:
        report: English text, cleaned or not; sentences end with a full stop. A comma does not end a negation.

    >>> read_entities("Small left effusion. No pneumothorax, pneumonia cannot be excluded.")["pleural effusion"].name
    'PRESENT'
    """
    found: dict[str, Presence] = {}
    for entity, presence, _ in read_mentions(report):
        found[entity] = max(found.get(entity, presence), presence)
    return found


def _clauses(sentence: str) -> list[str]:
    starts = [0, *(turn.start() for turn in _TURN.finditer(sentence)), len(sentence)]
    return [sentence[start:end] for start, end in pairwise(starts) if end > start]


def _parts(clause: str, mentions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where to cut a clause so that each part holds one mention and its positions: at the last joint between two mentions."""
    joints = [joint.start() for joint in _JOINT.finditer(clause)]
    cuts = {0, len(clause)}
    for _, end in mentions:
        if following := [start for start, _ in mentions if start >= end]:
            cuts.update([joint for joint in joints if end <= joint < min(following)][-1:])
    return list(pairwise(sorted(cuts)))


def _presence(clause: str, start: int, end: int) -> Presence:
    calm = _NO_DENIAL.sub(lambda cue: " " * len(cue.group()), clause)
    if _BEFORE.search(calm[:end]) or _AFTER.search(calm[end : end + 40]):
        return Presence.ABSENT
    if _OPEN.search(clause[max(0, start - 60) : start]) or _OPEN.search(clause[end : end + 40].partition(",")[0]):
        return Presence.UNCERTAIN
    return Presence.PRESENT
