"""What a chest X-ray can show, and what a report says of it."""

from hardneg_plugin.knowledge.entities import ENTITIES, Entity
from hardneg_plugin.knowledge.reader import Presence, read_entities

__all__ = ["ENTITIES", "Entity", "Presence", "read_entities"]
