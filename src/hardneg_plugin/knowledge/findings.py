"""The findings that an English report states, leaves open and denies, each with its side and zone."""

import itertools
from collections.abc import Callable, Hashable, Mapping

from hardneg_plugin.knowledge.entities import ENTITIES, SIDES, ZONES
from hardneg_plugin.knowledge.reader import Presence, read_entities, read_mentions

Findings = frozenset[tuple[str, Hashable]]

_POSITIONS = {entity.name: frozenset(entity.positions) for entity in ENTITIES}


def read_statements(report: str) -> Mapping[Presence, Findings]:
    """What a report says, by presence: each finding is `(entity, (("side", ...), ("zone", ...)))`, without what is not named.

    Of several mentions of an entity only those of the highest presence count. A bilateral finding is two, one on each side. A
    finding that is mentioned again with fewer attributes is the same finding.

    Args:
        report: English text, cleaned or not.

    >>> said = read_statements("Bibasilar atelectasis, possible right effusion. No pneumothorax.")
    >>> sorted(said[Presence.PRESENT])
    [('atelectasis', (('side', 'left'), ('zone', 'basal'))), ('atelectasis', (('side', 'right'), ('zone', 'basal')))]
    >>> said[Presence.UNCERTAIN], said[Presence.ABSENT]
    (frozenset({('pleural effusion', (('side', 'right'),))}), frozenset({('pneumothorax', ())}))
    """
    highest = read_entities(report)
    said: dict[Presence, set[tuple[str, tuple[tuple[str, str], ...]]]] = {presence: set() for presence in Presence}
    for name, presence, positions in read_mentions(report):
        if presence == highest[name]:
            said[presence].update((name, attributes) for attributes in _attributes(positions & _POSITIONS[name]))
    return {
        presence: frozenset(
            (name, attributes)
            for name, attributes in findings
            if not any(name == other and set(attributes) < set(more) for other, more in findings)
        )
        for presence, findings in said.items()
    }


def read_findings(report: str) -> Findings:
    """The findings that a report states as present, not those that it denies or leaves open; see `read_statements`.

    >>> read_findings("small left effusion . pneumonia cannot be excluded .")
    frozenset({('pleural effusion', (('side', 'left'),))})
    """
    return read_statements(report)[Presence.PRESENT]


READERS: Mapping[str, Callable[[str], Findings]] = {"english": read_findings}
"""By language of the reports."""


def _attributes(positions: frozenset[str]) -> list[tuple[tuple[str, str], ...]]:
    """Every side with every zone."""
    keys = {"side": SIDES, "zone": ZONES}
    named = [[(key, one) for one in of_key if one in positions] for key, of_key in keys.items()]
    return list(itertools.product(*(of_key for of_key in named if of_key)))
