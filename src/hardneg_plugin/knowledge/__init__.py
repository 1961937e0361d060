"""What a chest X-ray can show, and what a report says about it."""

from hardneg_plugin.knowledge.chest import ChestXray
from hardneg_plugin.knowledge.entities import ENTITIES, Entity
from hardneg_plugin.knowledge.findings import read_findings, read_statements
from hardneg_plugin.knowledge.prompts import ABSENT, PRESENT, UNKNOWN, Knowledge, Prompt, swaps
from hardneg_plugin.knowledge.reader import Mention, Presence, read_entities, read_mentions

__all__ = [
    "ABSENT",
    "ENTITIES",
    "PRESENT",
    "UNKNOWN",
    "ChestXray",
    "Entity",
    "Knowledge",
    "Mention",
    "Presence",
    "Prompt",
    "read_entities",
    "read_findings",
    "read_mentions",
    "read_statements",
    "swaps",
]
