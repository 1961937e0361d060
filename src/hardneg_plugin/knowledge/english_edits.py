"""Minimal edits of English reports: the side, zone, degree or presence of a finding, changed within its sentence."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from numpy.random import Generator

from hardneg_plugin.errors import require
from hardneg_plugin.knowledge.edit_words import (
    BOTH_SIDES,
    DEGREE,
    DENIAL,
    DENIED,
    LISTED,
    OTHER_DEGREES,
    OTHER_ZONES,
    PLURAL,
    SIDE,
    STATED,
    VALUES,
    ZONE,
)
from hardneg_plugin.knowledge.edits import Change, EditedReport
from hardneg_plugin.knowledge.english_sentences import (
    PLACES,
    EnglishSentence,
    as_stated,
    degrees_of,
    is_named_elsewhere,
    is_ruled_out,
    parts_of,
    places_of,
    read_sentence,
)
from hardneg_plugin.knowledge.reader import Mention, Presence, read_mentions

KINDS = ("presence", "side", "place", "severity")
"""What an edit may change of a finding."""


class Proposal(NamedTuple):
    """An edited copy, and what it must be read as."""

    edited: EditedReport
    mentions: Counter[Mention]
    degrees: Counter[str]


class _Step(NamedTuple):
    """A sentence edited: its new text, what is read in it, and the change."""

    text: str
    mentions: list[Mention]
    degrees: list[str]
    change: Change
    names: frozenset[str]


@dataclass(frozen=True)
class EnglishEdits:
    """The `ReportEditor` of English reports.

    A finding that a sentence states alone gets the other side, another zone or degree, or is denied. One of those that a sentence
    denies is stated in front of the others. Either as likely, where a report offers both. Findings that are called possible or that
    several sentences mention stay as they are, and nothing is stated that another sentence rules out ("the lungs are clear"). All
    other sentences stay byte for byte.

    Args:
        kinds: some of `KINDS`.

    >>> import numpy as np
    >>> edit = EnglishEdits(kinds=["side"])
    >>> edit("Heart size is normal.  Small LEFT effusion. No pneumothorax.", 1, np.random.default_rng(0)).text
    'Heart size is normal.  Small RIGHT effusion. No pneumothorax.'

    Raises:
        UserError: an argument is not one of these.
    """

    kinds: Sequence[str] = KINDS

    def __post_init__(self) -> None:
        is_known = len(self.kinds) > 0 and set(self.kinds) <= set(KINDS)
        require(is_known, "kinds of EnglishEdits", f"some of {', '.join(KINDS)}", list(self.kinds))
        object.__setattr__(self, "kinds", tuple(self.kinds))  # of a config, a slow list of its own kind

    def __call__(self, report: str, n: int, rng: Generator) -> EditedReport | None:
        """See `ReportEditor`."""
        proposal = self.propose(report, n, rng)
        return proposal.edited if proposal is not None and reads_so(proposal) else None

    def propose(self, report: str, n: int, rng: Generator) -> Proposal | None:
        """An edited copy that has not been read again.

        Args:
            report, n, rng: as of `ReportEditor`.
        """
        parts = parts_of(report)
        mentions = Counter(one for text, _ in parts for one in read_sentence(text).mentions)
        degrees = Counter(degrees_of(report))
        done: dict[int, _Step] = {}
        while len(done) < n:
            found = self._step([text for text, _ in parts], done, rng)
            if found is None:
                return None
            at, step = found
            done[at] = step
            mentions = mentions - Counter(read_sentence(parts[at][0]).mentions) + Counter(step.mentions)
            degrees = degrees - Counter(degrees_of(parts[at][0])) + Counter(step.degrees)
        text = "".join((done[at].text if at in done else text) + end for at, (text, end) in enumerate(parts))
        return Proposal(EditedReport(text, tuple(step.change for step in done.values())), mentions, degrees)

    def _step(self, texts: list[str], done: dict[int, _Step], rng: Generator) -> tuple[int, _Step] | None:
        order = [at for at in rng.permutation(len(texts)).tolist() if at not in done]
        ways = self._of_present(texts, order, rng), self._of_denied(texts, order, rng)
        taken = {name for step in done.values() for name in step.names}
        steps = itertools.chain(*(ways if rng.integers(2) else reversed(ways)))
        return next((step for step in steps if not taken & step[1].names), None)

    def _of_present(self, texts: list[str], order: list[int], rng: Generator) -> Iterator[tuple[int, _Step]]:
        for at in order:
            sentence = read_sentence(texts[at])
            if len(sentence.findings) != 1 or not sentence.are_all(Presence.PRESENT):
                continue
            if is_named_elsewhere(sentence.findings[0].names, texts, at):
                continue
            for kind in rng.permutation(list(self.kinds)).tolist():
                step = _deny(sentence, rng) if kind == "presence" else _replace(sentence, kind, rng)
                if step is not None:
                    yield at, step

    def _of_denied(self, texts: list[str], order: list[int], rng: Generator) -> Iterator[tuple[int, _Step]]:
        if "presence" not in self.kinds:
            return
        for at in order:
            sentence = read_sentence(texts[at])
            if not sentence.are_all(Presence.ABSENT):
                continue
            others = [text.lower() for place, text in enumerate(texts) if place != at]
            for index in rng.permutation(len(sentence.findings)).tolist():
                names = sentence.findings[index].names
                if is_named_elsewhere(names, texts, at) or is_ruled_out(names, others):
                    continue
                step = _state(sentence, index, rng)
                if step is not None:
                    yield at, step


def reads_so(proposal: Proposal) -> bool:
    """Whether every mention and every degree of a copy is read as intended, and no other."""
    text = proposal.edited.text
    return Counter(read_mentions(text)) == proposal.mentions and Counter(degrees_of(text)) == proposal.degrees


def _replace(sentence: EnglishSentence, kind: str, rng: Generator) -> _Step | None:
    """Another word of a side, zone or degree in place of the only one."""
    words = {"side": SIDE, "place": ZONE, "severity": DEGREE}[kind]
    found = list(words.finditer(sentence.text.lower()))
    (finding,) = sentence.findings
    if len(found) != 1 or BOTH_SIDES.search(sentence.text.lower()):
        return None
    old = found[0].group()
    others = {"side": {"left": ["right"], "right": ["left"]}, "place": OTHER_ZONES, "severity": OTHER_DEGREES}[kind][
        old
    ]
    new = others[int(rng.integers(len(others)))]
    if kind == "severity":
        # a part of the name where it stands within it, but for an adverb: "the heart is mildly enlarged"
        if finding.start <= found[0].start() < finding.end and not old.endswith("ly"):
            return None
        mentions = list(sentence.mentions)
    else:
        before, after = (places_of(words.sub(word, sentence.text.lower())) for word in (old, new))
        if not (before - after) & frozenset().union(*(PLACES[name] for name in finding.names)):
            return None
        mentions = [
            one._replace(
                positions=one.positions - before | after if one.positions & (before - after) else one.positions
            )
            for one in sentence.mentions
        ]
    start, end = found[0].span()
    text = sentence.text[:start] + _like(sentence.text[start:end], new) + sentence.text[end:]
    degrees = [new if word == old else word for word in degrees_of(sentence.text)]
    change = Change(as_stated(finding, sentence.text), as_stated(finding, text))
    return _Step(text, mentions, degrees, change, finding.names)


def _deny(sentence: EnglishSentence, rng: Generator) -> _Step | None:
    """A denial in place of the sentence."""
    (finding,) = sentence.findings
    name = sentence.text.lower()[finding.start : finding.end]
    for noun in (*sorted(finding.names, key=len, reverse=True), name):
        for way in rng.permutation(len(DENIED)).tolist():
            text = _in_place_of(sentence.text, DENIED[way].format(noun, is_="are" if PLURAL.search(noun) else "is"))
            wanted = [Mention(one, Presence.ABSENT, frozenset()) for one in finding.names]
            if Counter(read_sentence(text).mentions) == Counter(wanted):
                return _Step(text, wanted, [], Change(as_stated(finding, sentence.text), None), finding.names)
    return None


def _state(sentence: EnglishSentence, index: int, rng: Generator) -> _Step | None:
    """One of the findings that a sentence denies is stated, before a denial of the others."""
    finding = sentence.findings[index]
    rest = _without(sentence, index)
    drawn = {key: values[int(rng.integers(len(values)))] for key, values in VALUES.items()}
    said_so = [wording.format(**drawn) for name in sorted(finding.names) for wording in STATED.get(name, ())]
    # some words name more than one entity: those that are denied, all of them
    said_so = [said for said in said_so if {one.entity for one in read_sentence(said).mentions} == finding.names]
    if rest is None or not said_so:
        return None
    said = said_so[int(rng.integers(len(said_so)))]
    text = _in_place_of(sentence.text, f"{said}. {rest[0].upper()}{rest[1:]}" if rest else said)
    if not sentence.text.strip()[0].isupper():
        text = text.lower()
    positions = places_of(said)
    mentions = [Mention(one, Presence.PRESENT, positions) for one in finding.names]
    mentions += [one for one in sentence.mentions if one.entity not in finding.names]
    return _Step(
        text,
        mentions,
        [*degrees_of(said), *degrees_of(rest)],
        Change(None, as_stated(finding, said)),
        finding.names,
    )


def _without(sentence: EnglishSentence, index: int) -> str | None:
    """A denial without one of the findings in its list, "" if it was the only one; None where it is something else."""
    text = sentence.text.strip().lower()
    cue = DENIAL.match(text)
    if cue is None:
        return None
    listed = text[cue.end() :]
    if len(sentence.findings) == 1:
        return ""
    cuts = [match.span() for match in LISTED.finditer(listed)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(listed)]
    items = [listed[start:end] for start, end in zip(starts, ends, strict=True)]
    is_list = all(len(read_sentence(item).findings) == 1 and not DENIAL.match(item) for item in items)
    if not is_list or len(items) != len(sentence.findings):
        return None
    behind = ""
    if index == len(items) - 1:  # a verb behind the last one goes with those that are left
        behind = items[index][read_sentence(items[index]).findings[0].end :]
    kept = [item for place, item in enumerate(items) if place != index]
    return cue.group() + " or ".join([", ".join(kept[:-1]), kept[-1]] if len(kept) > 1 else kept) + behind


def _like(old: str, new: str) -> str:
    """A word in the capitals of another."""
    return new.upper() if old.isupper() else new.capitalize() if old[:1].isupper() else new


def _in_place_of(text: str, new: str) -> str:
    """A sentence between the blanks of another, with a capital if that had one."""
    body = text.strip()
    first = new[0].upper() + new[1:] if body[:1].isupper() else new
    start = text.index(body)
    return text[:start] + first + text[start + len(body) :]
