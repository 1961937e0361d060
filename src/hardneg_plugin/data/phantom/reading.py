"""The grammar in reverse: from any text to the findings that it states.

Reads sentence by sentence, raw or in a tokenizer's cleaned form (lower case, no punctuation but " . "), and never fails:
attributes that a garbled sentence lacks are left out. A finding that a sentence only calls possible is hedged, not stated.
"""

import re
from collections.abc import Hashable, Iterator, Mapping

from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, Value
from hardneg_plugin.data.phantom.grammar import written

MENTIONS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rf"\b(?:{words})\b")
    for name, words in {
        "cardiomegaly": r"cardiomegaly|(?:heart|cardiac)\b.*?\benlarge\w*|enlarge\w*\b.*?\b(?:heart|cardiac)",
        "pleural effusion": r"effusions?|pleural fluid",
        "pneumothorax": r"pneumothora(?:x|ces)",
        "consolidation": r"consolidat(?:ions?|ed)",
        "nodule": r"nodules?",
        "atelectasis": r"atelecta(?:sis|ses|tic)",
        "oedema": r"o?edema",
        "hyperinflation": r"hyperinflat(?:ion|ed)",
        "elevated hemidiaphragm": r"elevat(?:ed|ion)\b.*?\b(?:hemi)?diaphragms?|(?:hemi)?diaphragms?\b.*?\belevat(?:ed|ion)",
        "tortuous aorta": r"tortuous|tortuosity",
        "scoliosis": r"scoliosis",
        "rib fracture": r"fractur(?:ed?|es)",
        "pacemaker": r"pacemakers?",
        "central line": r"central (?:venous )?(?:lines?|catheters?)",
    }.items()
}
"""The words that name a finding; a sentence without them does not mention it."""

DENIES_REST = re.compile(r"\b(?:no|without|free of|negative for)\b")
"""Denies every finding named after it in its sentence, up to a "but"."""
DENIES_PART = re.compile(r"\b(?:not|absent)\b")
"""Denies every finding named in its part of the sentence, before or after it."""
HEDGES_PART = re.compile(r"\b(?:possibl[ey]|may|might|questionable|suspected|cannot be excluded)\b")
"""Makes every finding named in its part of the sentence a mere possibility."""
BUT = re.compile(r"\bbut\b")
JOINTS = re.compile(r"\b(?:and|with|without)\b")
"""Words that open a new part of a sentence if both parts name a finding: each part has separate attributes."""


def _words(key: str, value: Value) -> str:
    text = re.escape(written(key, value))
    return {"grade": f"{text}(?:ly)?", "mm": f"{text} mm"}.get(key, text)


VALUES: Mapping[str, Mapping[str, tuple[tuple[re.Pattern[str], Value], ...]]] = {
    name: {
        key: tuple((re.compile(rf"\b{_words(key, value)}\b"), value) for value in values)
        for key, values in attributes.items()
    }
    for name, attributes in ATTRIBUTES.items()
}
"""By finding and attribute: the words of each value."""


def _parts(clause: str) -> Iterator[tuple[int, str]]:
    """The clause cut before each joint with a finding on both sides; each part with its start."""
    start = 0
    for joint in JOINTS.finditer(clause):
        before, after = clause[start : joint.start()], clause[joint.start() :]
        if all(any(mention.search(part) for mention in MENTIONS.values()) for part in (before, after)):
            yield start, before
            start = joint.start()
    yield start, clause[start:]


def _attributes(name: str, part: str) -> tuple[tuple[str, Value], ...]:
    """The attributes that a part of a sentence gives a finding named in it; of several values, the first."""
    read = []
    for key, values in VALUES[name].items():
        said = [(match.start(), value) for words, value in values if (match := words.search(part))]
        if said:
            read.append((key, min(said, key=lambda at: at[0])[1]))
    return tuple(read)


def _named(sentence: str, *, hedged: bool) -> Iterator[Finding]:
    for clause in BUT.split(sentence):
        denial = DENIES_REST.search(clause)
        denied_from = denial.start() if denial else len(clause)
        for start, part in _parts(clause):
            is_hedged = HEDGES_PART.search(part) is not None
            if is_hedged != hedged or (DENIES_PART.search(part) and not is_hedged):
                continue
            for name, mention in MENTIONS.items():
                match = mention.search(part)
                if match and start + match.start() < denied_from:
                    yield Finding(name, _attributes(name, part[: max(denied_from - start, 0)]))


def read_findings(text: str) -> frozenset[tuple[str, Hashable]]:
    """The findings that a text states, each `(name, ((key, value), ...))` with the attributes that it gives.

    Any text is read, raw or cleaned. A denied or hedged finding is not stated. A finding mentioned again with fewer
    attributes is the same finding.

    >>> text = "There is a small left pleural effusion. No pneumothorax."
    >>> read_findings(text) == {("pleural effusion", (("side", "left"), ("size", "small")))}
    True
    >>> read_findings("the lungs are clear without consolidation or nodule . heart is not enlarged .")
    frozenset()
    """
    return _read(text, hedged=False)


def read_hedged(text: str) -> frozenset[tuple[str, Hashable]]:
    """The findings that a text calls possible without stating them, as `read_findings` gives those that it states.

    >>> read_hedged("Possible small left pleural effusion. Scoliosis. No pneumothorax.")
    frozenset({Finding(name='pleural effusion', attributes=(('side', 'left'), ('size', 'small')))})
    """
    stated = {name for name, _ in read_findings(text)}
    return frozenset(found for found in _read(text, hedged=True) if found[0] not in stated)


def _read(text: str, *, hedged: bool) -> frozenset[tuple[str, Hashable]]:
    plain = re.sub(r"[^a-z0-9.\-]+", " ", text.lower())
    named = {found for sentence in plain.split(".") for found in _named(sentence, hedged=hedged)}
    return frozenset(
        found
        for found in named
        if not any(found.name == other.name and set(found.attributes) < set(other.attributes) for other in named)
    )
