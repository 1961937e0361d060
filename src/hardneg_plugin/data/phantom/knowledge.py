"""Findings of phantom studies and their places as prompts, and which of them a report states."""

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property

from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, Value
from hardneg_plugin.data.phantom.grammar import written
from hardneg_plugin.data.phantom.prompts import zero_shot_prompts
from hardneg_plugin.data.phantom.reading import read_findings, read_hedged
from hardneg_plugin.knowledge import ABSENT, PRESENT, UNKNOWN, Prompt

PLACED_BY = ("side", "lobe", "direction", "zone", "band")
"""Attributes of place, in the order of reports."""


class PhantomKnowledge:
    """Every finding of the phantom, anywhere and at each of its possible places.

    >>> knowledge = PhantomKnowledge()
    >>> facts = knowledge.facts("There is a small left pleural effusion.")
    >>> [prompt for prompt, fact in zip(knowledge.prompts, facts) if fact == PRESENT]
    [Prompt(entity='pleural effusion', position=None), Prompt(entity='pleural effusion', position='left')]
    """

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, finding by finding."""
        return tuple(Prompt(name, place) for name in ATTRIBUTES for place in (None, *_places(name)))

    def wordings(self) -> Mapping[str, tuple[Sequence[str], Sequence[str]]]:
        """By finding: sentences that state it, and as many that deny it."""
        return zero_shot_prompts()

    def facts(self, report: str) -> list[int]:
        """For each prompt whether the report states it; unknown where it does not say the place, or only calls it possible."""
        stated: dict[str, set[str | None]] = {}
        for found in read_findings(report):
            stated.setdefault(found[0], set()).add(_place(Finding(*found)))  # type: ignore[arg-type]
        hedged = {name for name, _ in read_hedged(report)}
        return [
            UNKNOWN if prompt.entity in hedged else _fact(prompt, stated.get(prompt.entity)) for prompt in self.prompts
        ]


def _fact(prompt: Prompt, places: set[str | None] | None) -> int:
    if places is None:
        return ABSENT
    if prompt.position is None or prompt.position in places:
        return PRESENT
    return UNKNOWN if None in places else ABSENT


def _places(name: str) -> list[str]:
    values = [[_written(key, value) for value in ATTRIBUTES[name][key]] for key in _keys(name)]
    return [" ".join(words) for words in itertools.product(*values)] if values else []


def _place(found: Finding) -> str | None:
    values = dict(found.attributes)
    keys = _keys(found.name)
    if not keys or not set(keys) <= set(values):
        return None
    return " ".join(_written(key, values[key]) for key in keys)


def _keys(name: str) -> list[str]:
    return [key for key in PLACED_BY if key in ATTRIBUTES[name]]


def _written(key: str, value: Value) -> str:
    return f"{written(key, value)} {key}" if key in ("zone", "lobe") else written(key, value)
