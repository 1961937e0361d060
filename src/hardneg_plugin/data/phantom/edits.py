"""Minimal edits of phantom reports: findings that are turned into others, stated or denied, in the words of their regime."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from numpy.random import Generator, default_rng

from hardneg_plugin.data.phantom.dictation import listed, sentence
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, Value, territory
from hardneg_plugin.data.phantom.grammar import PLACES, written
from hardneg_plugin.data.phantom.readers import READERS, Reader, wordings
from hardneg_plugin.data.phantom.reading import VALUES
from hardneg_plugin.data.phantom.regimes import REGIMES
from hardneg_plugin.data.phantom.sentences import Sentence, normal_lines, read_sentence, sentences_of
from hardneg_plugin.errors import require
from hardneg_plugin.knowledge.edits import Change, EditedReport

KINDS = ("presence", "side", "place", "severity")
"""What an edit may change of a finding."""

KIND_OF = {
    "side": "side",
    "direction": "side",
    "lobe": "place",
    "zone": "place",
    "band": "place",
    "number": "place",
    "grade": "severity",
    "size": "severity",
    "mm": "severity",
    "calcified": "severity",
}
"""By attribute."""

TRIES = 16
"""Findings drawn to find one that a report rules out."""
DRAWN = 4096
"""Studies of a regime whose findings they are drawn from."""

_Edit = tuple[list[Sentence], Change]


@dataclass(frozen=True)
class PhantomEdits:
    """The `ReportEditor` of phantom reports.

    A finding that a report states gets another side, place or severity, or the normal sentence that it had replaced. One that its
    normal sentences rule out is stated in their place, as the regime draws and words it. Either as likely, where a report offers
    both. Findings that are hedged, and those that no sentence rules out, stay open; all other sentences stay as they are. What an
    edited report states can occur together in one study.

    Args:
        regime: of the studies.
        kinds: some of `KINDS`.

    >>> import numpy as np
    >>> edit = PhantomEdits(kinds=["side"])
    >>> edit("The heart is normal in size. There is a small left pleural effusion.", 1, np.random.default_rng(0)).text
    'The heart is normal in size. There is a small right pleural effusion.'

    Raises:
        UserError: an argument is not one of these.
    """

    regime: str = "uniform"
    kinds: Sequence[str] = KINDS

    def __post_init__(self) -> None:
        require(self.regime in REGIMES, "regime of PhantomEdits", ", ".join(REGIMES), self.regime)
        is_known = len(self.kinds) > 0 and set(self.kinds) <= set(KINDS)
        require(is_known, "kinds of PhantomEdits", f"some of {', '.join(KINDS)}", list(self.kinds))
        object.__setattr__(self, "kinds", tuple(self.kinds))  # of a config, a slow list of its own kind

    def __call__(self, report: str, n: int, rng: Generator) -> EditedReport | None:
        """See `ReportEditor`."""
        edited = self.propose(report, n, rng)
        return edited if edited is not None and self.reads_so(report, edited) else None

    def propose(self, report: str, n: int, rng: Generator) -> EditedReport | None:
        """An edited copy that has not been read again.

        Args:
            report, n, rng: as of `ReportEditor`.
        """
        sentences, changes = sentences_of(report, self.regime), list[Change]()
        while len(changes) < n:
            edit = self._edit(sentences, {change.name for change in changes}, rng)
            if edit is None:
                return None
            sentences = edit[0]
            changes.append(edit[1])
        return EditedReport(" ".join(one.text for one in sentences), tuple(changes))

    def reads_so(self, report: str, edited: EditedReport) -> bool:
        """Whether a copy differs in what it was meant to, and in nothing else that a reader of findings sees.

        Args:
            report: the original.
            edited: its copy.
        """
        (stated, open_, denied), after = self._facts(report), self._facts(edited.text)
        before = {change.before for change in edited.changes}
        names = {change.name for change in edited.changes}
        expected = (stated - before) | {change.after for change in edited.changes if change.after is not None}
        return after[0] == expected and after[1] == open_ and after[2] - names == denied - names

    def _facts(self, report: str) -> tuple[set[object], set[str], set[str]]:
        """What a report states, leaves open and denies."""
        sentences = sentences_of(report, self.regime)
        stated = {one.stated for one in sentences if one.stated is not None}
        open_ = {name for one in sentences for name in one.open}
        denied = {name for one in sentences for name in one.denied} - open_ - {one.name for one in stated}
        return set(stated), open_, denied

    def _edit(self, sentences: list[Sentence], done: set[str], rng: Generator) -> _Edit | None:
        """One more finding changed, of those that are not `done`; None where there is none."""
        ways = self._of_stated(sentences, done, rng), self._of_ruled_out(sentences, done, rng)
        return next(itertools.chain(*(ways if rng.integers(2) else reversed(ways))), None)

    def _of_stated(self, sentences: list[Sentence], done: set[str], rng: Generator) -> Iterator[_Edit]:
        """Edits of findings that are stated, in random order."""
        for at in rng.permutation(len(sentences)).tolist():
            found = sentences[at].stated
            if found is None or found.name in done:
                continue
            offered = [kind for kind in KINDS if kind in self.kinds and kind in _kinds_of(found)]
            for kind in rng.permutation(offered).tolist():
                other = self._other(sentences, at, found, kind, rng)
                if other is not None:
                    yield other

    def _other(self, sentences: list[Sentence], at: int, found: Finding, kind: str, rng: Generator) -> _Edit | None:
        rest = [*sentences[:at], *sentences[at + 1 :]]
        if kind == "presence":
            denied = self._denied(sentences, at, found.name, rng)
            return None if denied is None else (denied, Change(found, None))
        keys = [key for key in ATTRIBUTES[found.name] if KIND_OF[key] == kind]
        key = keys[int(rng.integers(len(keys)))]
        values = [value for value in ATTRIBUTES[found.name][key] if value != found.value(key)]
        for value in rng.permutation(len(values)):
            other = Finding(
                found.name, tuple((one, values[value] if one == key else old) for one, old in found.attributes)
            )
            text = _rewritten(sentences[at].text, found, key, values[value])
            if text is not None and _fits(other, rest):
                return [*sentences[:at], read_sentence(text, self.regime), *sentences[at + 1 :]], Change(found, other)
        return None

    def _of_ruled_out(self, sentences: list[Sentence], done: set[str], rng: Generator) -> Iterator[_Edit]:
        """Edits that state a finding which normal sentences rule out, as likely as the regime draws them."""
        if "presence" not in self.kinds:
            return
        said = {name for one in sentences for name in (*one.open, *([one.stated.name] if one.stated else []))}
        drawn = _drawn(self.regime)
        for index in rng.integers(len(drawn), size=TRIES).tolist():
            found = drawn[index]
            if found.name in said or found.name in done or not _fits(found, sentences):
                continue
            stated = self._stated(sentences, found, rng)
            if stated is not None:
                yield stated, Change(None, found)

    def _stated(self, sentences: list[Sentence], found: Finding, rng: Generator) -> list[Sentence] | None:
        """With a finding in place of the normal sentences that rule it out; None where that loses another denial."""
        kept: list[Sentence] = []
        first = None
        for one in sentences:
            if one.normal is None or found.name not in one.normal.about:
                kept.append(one)
                continue
            first = len(kept) if first is None else first
            rest = [name for name in one.normal.about if name in one.denied and name != found.name]
            if rest and "{rest}" not in one.normal.wording:
                return None
            if rest:
                kept.append(read_sentence(sentence(one.normal.wording.format(rest=listed(rest))), self.regime))
        if first is None:
            return None
        if self.regime == "uniform":
            first = sum(place <= PLACES[found.name] for place in map(_place, kept))
        kept.insert(first, read_sentence(REGIMES[self.regime].say(found, rng), self.regime))
        return kept

    def _denied(self, sentences: list[Sentence], at: int, name: str, rng: Generator) -> list[Sentence] | None:
        """With a normal sentence in place of the finding that rules it out; None where the regime has none that fits."""
        rest = [*sentences[:at], *sentences[at + 1 :]]
        said = {other for one in rest for other in (*one.open, *([one.stated.name] if one.stated else []))}
        if self.regime == "uniform":
            used = {one.normal.about for one in rest if one.normal is not None}
            lines = [
                text
                for text, line in normal_lines("uniform").items()
                if name in line.about and said.isdisjoint(line.about) and line.about not in used
            ]
        else:
            lines = [
                sentence(wording)
                for about, line in _reader(sentences).lines
                for wording in wordings(line)
                if name in about and said.isdisjoint(about) and "{rest}" not in wording
            ]
            extended = [self._extended(one, name) for one in rest]
            if extended != rest:
                return extended
        # one that denies another finding, too, would change more than this one
        fitting = [one for one in (read_sentence(text, self.regime) for text in lines) if one.denied <= {name}]
        if not fitting:
            return None
        return [*sentences[:at], fitting[int(rng.integers(len(fitting)))], *sentences[at + 1 :]]

    def _extended(self, one: Sentence, name: str) -> Sentence:
        """A sentence that lists what there is not, with one more finding; any other as it is."""
        if one.normal is None or name not in one.normal.about or "{rest}" not in one.normal.wording:
            return one
        names = [other for other in one.normal.about if other in one.denied or other == name]
        return read_sentence(sentence(one.normal.wording.format(rest=listed(names))), self.regime)


@cache
def _drawn(regime: str) -> Sequence[Finding]:
    """Findings, each as often as in the studies of a regime."""
    rng = default_rng(0)
    return [found for _ in range(DRAWN) for found in sorted(REGIMES[regime].draw(rng, 0.0))]


def _kinds_of(found: Finding) -> set[str]:
    return {"presence", *(KIND_OF[key] for key, _ in found.attributes)}


def _fits(found: Finding, sentences: Sequence[Sentence]) -> bool:
    """Whether a finding can occur together with those that sentences state."""
    parts = _territory(found)
    return all(one.stated is None or parts.isdisjoint(_territory(one.stated)) for one in sentences)


_territory = cache(territory)


def _place(one: Sentence) -> float:
    if one.normal is not None and one.normal.place is not None:
        return one.normal.place
    return 0.0 if one.stated is None else PLACES[one.stated.name]


def _rewritten(text: str, found: Finding, key: str, value: Value) -> str | None:
    """A sentence with another value of an attribute; None where it does not give exactly one."""
    spans = {match.span() for words, _ in VALUES[found.name][key] for match in words.finditer(text.lower())}
    if len(spans) != 1:
        return None
    start, end = spans.pop()
    said = text[start:end].lower().replace(written(key, found.value(key)), written(key, value))
    return f"{text[:start]}{said.capitalize() if start == 0 else said}{text[end:]}"


def _reader(sentences: Sequence[Sentence]) -> Reader:
    """Whose normal lines most sentences of a report are."""
    said = [(one.normal.about, one.normal.wording) for one in sentences if one.normal is not None]
    return READERS[max(range(len(READERS)), key=lambda index: len(_lines_of(index).intersection(said)))]


@cache
def _lines_of(reader: int) -> frozenset[tuple[tuple[str, ...], str]]:
    return frozenset((tuple(about), wording) for about, line in READERS[reader].lines for wording in wordings(line))
