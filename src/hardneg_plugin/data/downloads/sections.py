"""Findings and impression of a radiology report in free text.

A report is cut at its headers. A header is a known name before a colon, or alone on its line:

- at the start of a line, in capitals or capitalised (those of findings and impression also in lower case);
- in mid-line, in capitals, or capitalised after the end of a sentence.

A long name with one slip behind its first letter (a letter too many, too few, wrong, or two exchanged: "FINIDNGS:") is that
name, in capitals or capitalised at the start of a line, before a colon.

Any other name before a colon ("LUNGS:", "AP chest compared to ___:") is text. So are views as a header ("CHEST, PA AND
LATERAL:") within findings or an impression; elsewhere they open the body of the report.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

_Kind = Literal["start", "findings", "impression", "body", "final", "draft", "other", "signature"]


class Sections(NamedTuple):
    """Texts in one line, empty where the report has none."""

    findings: str
    impression: str


def _slips(*names: str) -> str:
    """Each name with one slip behind its first letter, as a pattern in capitals."""
    found: set[str] = set()
    for name in names:
        for place in range(1, len(name) + 1):
            head, tail = name[:place], name[place:]
            found |= {
                rf"{head}[A-Z]{tail}",
                head + tail[1:],
                rf"{head}[A-Z]{tail[1:]}",
                head + tail[1:2] + tail[:1] + tail[2:],
            }
    return "|".join(sorted(found - set(names)))


_FINDINGS = r"(?:PERTINENT )?FINDINGS?(?: ?(?:/|&|AND) ?IMPRESSIONS?)?|IMPRESSIONS? ?(?:/|&|AND) ?FINDINGS?"
_IMPRESSION = r"(?:FINAL )?IMPRESSIONS?|CONCLUSIONS?|SUMMARY"
_DRAFT = r"WET READ(?:ING)?|(?:FINAL )?ADDENDUM|PROVISIONAL FINDINGS IMPRESSION|PRELIMINARY REPORT"
_OTHER = (
    r"(?:CLINICAL )?(?:INDICATIONS?|HISTORY|INFORMATION)|CLINICAL (?:DATA|QUESTION|CONTEXT)|REASONS? FOR (?:THE )?\w+"
    r"|COMPARISONS?|TECHNIQUES?|NOTIFICATIONS?|RECOMMENDATIONS?|(?:UNDERLYING )?MEDICAL CONDITION"
)
_TITLES = r"EXAM(?:INATION)?|STUDY|PROCEDURE|VIEWS?|DATE|CONTRAST|DOSE"
"""Names that are also words of findings: headers only at the start of a line."""
_SLIPS: dict[_Kind, str] = {
    "findings": _slips("FINDINGS"),
    "impression": _slips("IMPRESSION", "CONCLUSION"),
    "other": _slips("INDICATION", "COMPARISON", "TECHNIQUE", "RECOMMENDATION", "NOTIFICATION"),
}
_SIGNED = r"(?:DICTATED|(?:ELECTRONICALLY )?SIGNED|APPROVED|TRANSCRIBED|REVIEWED|INTERPRETED|READ) BY\b"
_VIEW = r"\b(?:CHEST|CXR|RADIOGRAPHS?|X-?RAYS?|PORTABLE|FRONTAL|LATERAL|PA|AP|VIEWS?)\b"

_AFTER = r"(?: ?\([^()\n]{0,60}\))?[ \t]*(?::|--?(?=\s))"
"""After a name: an optional remark in brackets, and a colon or a dash."""


def _begins(names: str) -> str:
    return rf"^(?=[A-Z])(?i:{names}){_AFTER}|^(?:{names})$|(?<=\n\n)(?=[A-Z])(?i:{names})$"


def _within(names: str, *, capitalised: bool = True) -> str:
    capitals = rf"(?<=[\s.,;])(?:{names}){_AFTER}"
    return capitals + rf"|(?<=[.;])[ \t]*(?=[A-Z])(?i:{names}){_AFTER}" * capitalised


def _with_slip(kind: _Kind) -> tuple[_Kind, str]:
    names = _SLIPS[kind]
    return kind, rf"^(?=[A-Z])(?i:{names})[ \t]*:|(?<=[\s.,;])(?:{names})[ \t]*:"


_HEADERS: tuple[tuple[_Kind, str], ...] = (  # of several that match at one place, the first is taken
    ("final", r"^FINAL REPORT\b[ \t]*:?"),
    ("draft", rf"^(?:{_DRAFT})\b[^a-z\n:]*(?::|$)|{_begins(_DRAFT)}"),
    ("signature", rf"^(?=[A-Z])(?i:{_SIGNED}|THE STUDY AND THE REPORT WERE\b)|(?<=\n\n)D[Rr]\. [^a-z\n]*$"),
    ("findings", rf"^(?i:{_FINDINGS}){_AFTER}|{_begins(_FINDINGS)}|{_within(_FINDINGS)}"),
    ("impression", rf"^(?i:{_IMPRESSION}){_AFTER}|{_begins(_IMPRESSION)}|{_within(_IMPRESSION)}"),
    ("other", rf"{_begins(f'{_OTHER}|{_TITLES}')}|{_within(_OTHER, capitalised=False)}"),
    *map(_with_slip, _SLIPS),
    ("body", r"^(?=R)(?i:REPORT):"),
    ("body", rf"^(?=[^\n:]{{0,100}}{_VIEW})[^a-z\n]{{1,100}}?:(?=\s|$)|^(?=[^\n:]*(?i:{_VIEW}))[^\n:]{{1,80}}:$"),
)
_HEADER = re.compile("|".join(f"(?P<h{index}>{pattern})" for index, (_, pattern) in enumerate(_HEADERS)), re.MULTILINE)
_RULE = re.compile(r"[_=*-]{5,}")
"""A horizontal rule."""


def read_sections(report: str) -> Sections:
    """Findings and impression of a report.

    Sections of one kind are joined in their order. Findings and impression under one header are findings. A draft (wet
    read, addendum) is left out: up to the final report if one follows, else up to the next header. Without a header of
    findings, the body of the report ("REPORT:", or views as a header) is the findings. If there is neither and no
    impression, the last paragraph is the findings, unless it belongs to another header. Placeholders (`___`) stay, lines
    are joined by a space, and signatures end a section.

    Args:
        report: the text; line ends of any kind.

    Returns:
        The words of the report, in the same order.

    >>> read_sections("FINDINGS: The lungs are clear. IMPRESSION: Normal.")
    Sections(findings='The lungs are clear.', impression='Normal.')
    """
    lines = (line.strip() for line in report.splitlines())
    parts = list(_parts("\n\n" + "\n".join("" if _RULE.fullmatch(line) else line for line in lines)))
    findings, impression = _words(parts, "findings") or _words(parts, "body"), _words(parts, "impression")
    return Sections(findings, impression) if findings or impression else Sections(_last_paragraph(parts), "")


def _parts(text: str) -> Iterator[tuple[_Kind, str]]:
    """The report cut at its headers, without these."""
    headers = [
        (_HEADERS[int(match.lastgroup[1:])][0], match.start(), match.end())
        for match in _HEADER.finditer(text)
        if match.lastgroup
    ]
    last_final = max((start for kind, start, _ in headers if kind == "final"), default=-1)
    open_kind: _Kind = "start"
    begin = 0
    for kind, start, end in headers:
        if kind == "body" and open_kind in ("findings", "impression"):
            continue
        if open_kind == "draft" and kind != "final" and start < last_final:
            continue
        yield open_kind, text[begin:start]
        open_kind, begin = kind, end
    yield open_kind, text[begin:]


def _words(parts: list[tuple[_Kind, str]], kind: _Kind) -> str:
    return " ".join(word for name, text in parts if name == kind for word in text.split())


def _last_paragraph(parts: list[tuple[_Kind, str]]) -> str:
    """The last paragraph without a header; a title above the first header is not one."""
    kept = [(kind, text) for kind, text in parts if kind != "signature"]
    for place, (kind, text) in enumerate(reversed(kept)):
        paragraphs = [words for paragraph in re.split(r"\n{2,}", text) if (words := " ".join(paragraph.split()))]
        if kind in ("start", "final"):
            return paragraphs[-1] if paragraphs and place == 0 else ""
        if kind != "draft" and len(paragraphs) > 1:
            return paragraphs[-1]
    return ""
