"""What a chest X-ray can show, and what a report says about it."""

from hardneg_plugin.knowledge.chest import ChestXray
from hardneg_plugin.knowledge.edits import Change, EditedReport, ReportEditor
from hardneg_plugin.knowledge.english_edits import EnglishEdits
from hardneg_plugin.knowledge.entities import ENTITIES, Entity
from hardneg_plugin.knowledge.findings import read_findings, read_statements
from hardneg_plugin.knowledge.prompts import ABSENT, PRESENT, UNKNOWN, Knowledge, Prompt, swaps
from hardneg_plugin.knowledge.reader import Mention, Presence, read_entities, read_mentions

__all__ = [
    "ABSENT",
    "ENTITIES",
    "PRESENT",
    "UNKNOWN",
    "Change",
    "ChestXray",
    "EditedReport",
    "EnglishEdits",
    "Entity",
    "Knowledge",
    "Mention",
    "Presence",
    "Prompt",
    "ReportEditor",
    "read_entities",
    "read_findings",
    "read_mentions",
    "read_statements",
    "swaps",
]
