"""Texts as a reader sees them, and what stands for a missing one.

Two texts that look alike are one for a vocabulary, a match or a score only if they are the same characters. So every text of a
data set or a predictions file passes `visible_text` where it is read; ids do not, for other files name studies by them.
"""

import math
import re
import unicodedata
from collections.abc import Iterable
from itertools import islice
from typing import Any

_BLANKS = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\v\f"
_LINE_ENDS = "\r\u0085\u2028\u2029\x1c\x1d\x1e"
_QUOTES = {"'": "\u2018\u2019\u201a\u201b\u2032\u02bc", '"': "\u201c\u201d\u201e\u201f\u2033"}
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_LIGATURES = {
    0xFB00: "ff",
    0xFB01: "fi",
    0xFB02: "fl",
    0xFB03: "ffi",
    0xFB04: "ffl",
    0xFB05: "st",
    0xFB06: "st",
    0x2026: "...",
}
_JOINERS = "\u200c\u200d"
"""Nothing to see between Latin letters, but the shape of Arabic and Indic ones."""
_SHAPED = "[\u0600-\u1fff]"
_JOINED = re.compile(f"(?<!{_SHAPED})[{_JOINERS}]|[{_JOINERS}](?!{_SHAPED})")
_UNSEEN = [code for code in range(0x20) if chr(code) != "\n"] + [*range(0x7F, 0xA0), 0x00AD, 0x034F, 0x061C, 0x180E]
_UNSEEN += [
    0x200B,
    *range(0x200E, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    0xFEFF,
]
_SHOWN: dict[int, str | None] = {
    **dict.fromkeys(_UNSEEN),
    **dict.fromkeys(map(ord, _BLANKS), " "),
    **dict.fromkeys(map(ord, _LINE_ENDS), "\n"),
    **{ord(other): plain for plain, others in _QUOTES.items() for other in others},
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **_LIGATURES,
}
_MISSING = re.compile(r"nan|<na>|null|#n/a", re.IGNORECASE)

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_LETTERS_OF_A_WORD = 4
"""More on average than words have in these scripts."""
_ENOUGH = 1000
"""Texts that are looked at."""


def visible_text(text: str) -> str:
    """A text without what a reader cannot see: what looks alike is alike.

    Characters are composed (Unicode's NFC); blanks of every width, line ends, quotes, hyphens and dashes, and ligatures become the
    ASCII ones; zero-width characters, soft hyphens, marks of direction, byte order marks and control characters are left out.
    Letters of two scripts that look alike stay what they are. ASCII stays as it is, but for control characters.

    >>> visible_text("The patient\\u2019s \\ufb01ndings:\\u00a0no ef\\u00adfusion\\u200b.\\r\\n")
    "The patient's findings: no effusion.\\n"
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").translate(_SHOWN)
    return unicodedata.normalize("NFC", _JOINED.sub("", text))


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: null, NaN, a blank text, or one that programs write for a missing value.

    Those are "nan", "<NA>", "null" and "#N/A" in any case, and "None" as Python writes it: a report may be "none" or "None.".

    >>> [is_missing(value) for value in (float("nan"), "NaN", " ", "None", "None.", "none", "NA", 0)]
    [True, True, True, True, False, False, False, False]
    """
    if isinstance(value, str):
        text = value.strip()
        return not text or text == "None" or _MISSING.fullmatch(text) is not None
    return value is None or (isinstance(value, float) and math.isnan(value))


def lacks_spaces(texts: Iterable[str]) -> bool:
    """Whether texts, by the first thousand, are in a script without spaces, and have none between their words either.

    >>> lacks_spaces(["\u53cc\u80ba\u7eb9\u7406\u6e05\u6670\u3002"]), lacks_spaces(["\u53cc\u80ba \u7eb9\u7406 \u6e05\u6670"])
    (True, False)
    """
    letters = others = words = 0
    for text in islice(texts, _ENOUGH):
        unspaced = len(_UNSPACED.findall(text))
        letters += unspaced
        others += sum(map(str.isalpha, text)) - unspaced
        words += len(text.split())
    return letters > others and letters > _LETTERS_OF_A_WORD * words
