"""Where each sentence of a phantom report comes from: a normal line of the grammar or a reader, or a finding."""

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from hardneg_plugin.data.phantom.dictation import listed, sentence
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding
from hardneg_plugin.data.phantom.grammar import NORMAL
from hardneg_plugin.data.phantom.readers import READERS, wordings
from hardneg_plugin.data.phantom.reading import MENTIONS, read_findings, read_hedged


class NormalLine(NamedTuple):
    """A normal sentence."""

    about: tuple[str, ...]
    """The findings that rule it out."""
    wording: str
    """As written, or with "{rest}" for the findings that it names."""
    place: float | None = None
    """Its usual place in a report of `regime=uniform`."""


class Sentence(NamedTuple):
    """One sentence of a report, and what it says."""

    text: str
    normal: NormalLine | None
    stated: Finding | None
    """The finding that it states with all attributes, if it states this one alone."""
    open: frozenset[str]
    """Findings that it calls possible, or states in another way."""
    denied: frozenset[str]
    """Findings that it names and denies."""


def sentences_of(report: str, regime: str) -> list[Sentence]:
    """The sentences of a report; joined by single blanks they are the report.

    Args:
        report: as a regime writes it.
        regime: "uniform" or "clinic".

    >>> [one.denied for one in sentences_of("Scoliosis is present, convex to the left. No pneumothorax.", "uniform")]
    [frozenset(), frozenset({'pneumothorax'})]
    """
    return [read_sentence(text, regime) for text in re.split(r"(?<=\.) ", report)]


@cache
def read_sentence(text: str, regime: str) -> Sentence:
    """A sentence of a report.

    Args:
        text: with its full stop.
        regime: of the report.
    """
    stated, hedged = read_findings(text), read_hedged(text)
    named = {name for name, mention in MENTIONS.items() if mention.search(text.lower())}
    known = {name for name, _ in (*stated, *hedged)}
    found = [Finding(*one) for one in stated]  # type: ignore[arg-type]
    is_plain = (
        len(known) == 1 and len(found) == 1 and dict(found[0].attributes).keys() == ATTRIBUTES[found[0].name].keys()
    )
    return Sentence(
        text,
        normal_lines(regime).get(text),
        found[0] if is_plain else None,
        frozenset(() if is_plain else known),
        frozenset(named - known),
    )


@cache
def normal_lines(regime: str) -> Mapping[str, NormalLine]:
    """Every normal sentence of a regime.

    >>> normal_lines("uniform")["Heart size is normal."].about
    ('cardiomegaly',)
    """
    if regime == "uniform":
        return {
            sentence(phrase): NormalLine(tuple(sorted(absent)), phrase, place)
            for place, absent, phrases in NORMAL
            for phrase in phrases
        }
    return {
        sentence(wording.format(rest=listed(rest))): NormalLine(tuple(about), wording)
        for reader in READERS
        for about, line in reader.lines
        for wording in wordings(line)
        for rest in (_subsets(about) if "{rest}" in wording else [()])
    }


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [some for size in range(1, len(names) + 1) for some in itertools.combinations(names, size)]
