"""The prompts about a chest X-ray, and which of them a report states."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from hardneg_plugin.knowledge.entities import ENTITIES, SIDES, ZONES
from hardneg_plugin.knowledge.prompts import ABSENT, PRESENT, UNKNOWN, Prompt
from hardneg_plugin.knowledge.reader import Presence, read_mentions


class ChestXray:
    """The `Knowledge` of chest X-rays: every entity of `ENTITIES`, anywhere and at each of its positions.

    An entity that the report does not mention is absent, as in manual labelling. Of an entity that is present, all sides are known
    where the report names one, and all zones likewise; otherwise they are unknown.

    >>> chest = ChestXray()
    >>> facts = dict(zip(chest.prompts, chest.facts("Small left effusion. No pneumothorax."), strict=True))
    >>> [facts[Prompt("pleural effusion", side)] for side in (None, "left", "right")], facts[Prompt("pneumothorax")]
    ([1, 1, 0], 0)
    """

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, entity by entity."""
        return tuple(Prompt(entity.name, position) for entity in ENTITIES for position in (None, *entity.positions))

    def wordings(self) -> Mapping[str, tuple[Sequence[str], Sequence[str]]]:
        """By entity, three sentences that state it and three that deny it."""
        return {
            entity.name: (
                tuple(text.format(entity.name) for text in ("there is {}.", "{} is present.", "{} is seen.")),
                tuple(text.format(entity.name) for text in ("there is no {}.", "no {}.", "no {} is seen.")),
            )
            for entity in ENTITIES
        }

    def facts(self, report: str) -> list[int]:
        """For each of the Q prompts `PRESENT`, `ABSENT` or `UNKNOWN`."""
        present: dict[str, set[str]] = {}
        open_: set[str] = set()
        for entity, presence, positions in read_mentions(report):
            if presence == Presence.PRESENT:
                present.setdefault(entity, set()).update(positions)
            elif presence == Presence.UNCERTAIN:
                open_.add(entity)
        return [_fact(prompt, present.get(prompt.entity), prompt.entity in open_) for prompt in self.prompts]


def _fact(prompt: Prompt, positions: set[str] | None, is_open: bool) -> int:
    if positions is None:
        return UNKNOWN if is_open else ABSENT
    if prompt.position is None or prompt.position in positions:
        return PRESENT
    alike = SIDES if prompt.position in SIDES else ZONES
    return ABSENT if positions.intersection(alike) else UNKNOWN
