"""A report of two sections in one text: with marks that a model writes, or with headings as people read them.

`section=findings_impression` of hardneg-prepare makes "<findings> ... <impression> ..."; ReXrank exchanges
"Findings: ... Impression: ...".
"""

import re
from collections.abc import Callable, Mapping

from hardneg_plugin.data.texts import is_missing

SECTION_NAMES = ("findings", "impression")
MARKS = tuple(f"<{name}>" for name in SECTION_NAMES)
"""Words that begin a section; cleaning keeps them."""
_MARK = re.compile("(" + "|".join(MARKS) + ")")
_SPACED_MARK = re.compile(r"<\s*(findings|impression)\s*>")
_HEADING = re.compile(r"\b(findings|impression)\s*:", re.IGNORECASE)


def marked(findings: str, impression: str) -> str:
    """Two sections as one text with marks; a missing one leaves no mark, two leave an empty text.

    Args:
        findings: its text; empty where the report has none.
        impression: its text; likewise.

    >>> marked("Clear lungs.", "Normal."), marked("", "Normal.")
    ('<findings> Clear lungs. <impression> Normal.', '<impression> Normal.')
    """
    texts = dict(zip(MARKS, (findings.strip(), impression.strip()), strict=True))
    return " ".join(f"{mark} {text}" for mark, text in texts.items() if text)


def has_marks(text: str) -> bool:
    """Whether a text has a mark of a section."""
    return "<" in text and _MARK.search(text) is not None


def without_marks(text: str) -> str:
    """The words of a text without marks; a text without marks as it is.

    >>> without_marks("<findings> clear lungs . <impression> normal .")
    'clear lungs . normal .'
    """
    return " ".join(_MARK.sub(" ", text).split()) if has_marks(text) else text


def clean_each(text: str, clean: Callable[[str], str]) -> str:
    """A text cleaned section by section, its marks kept; as a whole if it has none.

    Args:
        text: with or without marks.
        clean: cleans the text of a section.
    """
    if not has_marks(text):
        return clean(text)
    parts = (part.strip() for part in _MARK.split(text))
    return " ".join(part if part in MARKS else clean(part) for part in parts if part)


def joined_marks(text: str) -> str:
    """A text whose marks a tokenizer may have taken apart, with the marks in one piece.

    >>> joined_marks("< findings > clear lungs < impression> normal")
    '<findings> clear lungs <impression> normal'
    """
    return _SPACED_MARK.sub(r"<\1>", text)


def split_sections(text: str) -> Mapping[str, str] | None:
    """The sections of a text by `SECTION_NAMES`, an empty text where there is none; None for a text that is not divided.

    Marks divide a text, or headings if it begins with one. Of a section that comes twice the first is read. What stands for a
    missing text ("None", "nan") is empty.

    >>> split_sections("Findings: Clear lungs. Impression: None.")
    {'findings': 'Clear lungs.', 'impression': ''}
    >>> split_sections("clear lungs .") is None
    True
    """
    if has_marks(text):
        parts = _MARK.split(text)
    elif (first := _HEADING.match(text.lstrip())) is not None and first.start() == 0:
        parts = _HEADING.split(text.lstrip())
    else:
        return None
    found = dict.fromkeys(SECTION_NAMES, "")
    for name, words in zip(parts[1::2], parts[2::2], strict=True):
        name, words = name.strip("<>").lower(), words.strip()
        if not found[name] and not is_missing(words.rstrip(".")):
            found[name] = words
    return found


def with_headings(text: str) -> str:
    """A text as ReXrank exchanges it: "Findings: ... Impression: ...", of the sections that it has; one without is findings.

    >>> with_headings("<findings> clear lungs . <impression> normal .")
    'Findings: clear lungs . Impression: normal .'
    """
    sections = split_sections(text) or {"findings": text.strip()}
    return " ".join(f"{name.capitalize()}: {words}" for name, words in sections.items() if words)
