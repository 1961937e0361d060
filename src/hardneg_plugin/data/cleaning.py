"""The released cleanings of reports."""

import re
from collections.abc import Callable, Mapping

from hardneg_plugin.data.report_sections import clean_each


def _join_sentences(text: str) -> str:
    """Lower case, without list numbers and punctuation, sentences separated by " . "."""
    text = re.sub(r"\.{2,}", ".", text).replace("1. ", "")
    # One number at a time: a removed "2. " can put a "3. " behind a full stop. Lists beyond five keep their numbers.
    for before in (". ", " "):
        for number in "2345":
            text = text.replace(f"{before}{number}. ", ". ")
    sentences = text.strip().lower().split(". ")
    # Quotes and slashes go before the strip and the rest after it, as released: blanks inside the text depend on it.
    unquoted = (re.sub(r"""["'/\\]""", "", sentence).strip() for sentence in sentences)
    return " . ".join(re.sub(r"[.,?!:;*%^&_+()<=>@\[\]{}]", "", sentence) for sentence in unquoted) + " ."


def _clean_mimic_cxr(text: str) -> str:
    return _join_sentences(re.sub(" {2,}", " ", text.replace("\n", " ")))


def _of_sections(clean: Callable[[str], str]) -> Callable[[str], str]:
    """A cleaning that keeps the marks of sections."""
    return lambda text: clean_each(text, clean)


CLEANINGS: Mapping[str, Callable[[str], str]] = {
    "iu_xray": _of_sections(_join_sentences),
    "mimic_cxr": _of_sections(_clean_mimic_cxr),
}
"""The released cleanings by data set; "mimic_cxr" joins lines and runs of blanks, "iu_xray" leaves both. Marks of sections stay."""
