"""Kinds of values of settings: whether a value is one, what it is in words, and the nearest value that would be."""

import contextlib
import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

IN_WORDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "Path": "a path",
    "None": "null",
    "list": "a list",
    "mapping": "a mapping",
    "object": "settings with a _target_",
}
PLURAL = {"int": "integers", "float": "numbers", "bool": "true and false", "str": "texts", "Path": "paths"}
SPOKEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TRUE = {"true": "true", "yes": "true", "on": "true", "y": "true", "1": "true"}
FALSE = {"false": "false", "no": "false", "off": "false", "n": "false", "0": "false", "none": "false", "null": "false"}


class Kind(NamedTuple):
    """One kind of value: "int", "float", "str", "Path", "bool", "None", "choice", "list", "mapping", "object" or "any"."""

    name: str
    choice: Any = None
    items: tuple["Kind", ...] = ()
    """Of a list or of the values of a mapping."""
    length: int | None = None
    """Of a list; None: any."""


ANY, OBJECT = Kind("any"), Kind("object")
PLAIN = {name: Kind(name) for name in ("int", "float", "str", "Path", "bool", "None")}


def choice(value: Any) -> Kind:
    """The kind of one value alone."""
    return Kind("choice", value)


def list_of(items: Sequence[Kind], length: int | None = None) -> Kind:
    """The kind of lists.

    Args:
        items: kinds of what is in it.
        length: how many; None: any number.
    """
    return Kind("list", None, tuple(items), length)


def mapping_of(items: Sequence[Kind]) -> Kind:
    """The kind of mappings from texts to values of some kinds."""
    return Kind("mapping", None, tuple(items))


def fits(value: Any, kinds: Sequence[Kind]) -> bool:
    """Whether a value is of one of some kinds.

    Args:
        value: of a setting, as plain Python.
        kinds: what is allowed.

    >>> fits(3, [PLAIN["float"]]), fits(True, [PLAIN["int"]]), fits([1, "x"], [list_of([PLAIN["int"]])])
    (True, False, False)
    """
    return any(_is_of(value, kind) for kind in kinds)


def _is_of(value: Any, kind: Kind) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind.name:
        case "any":
            return True
        case "int":
            return is_number and isinstance(value, int)
        case "float":
            return is_number
        case "bool":
            return isinstance(value, bool)
        case "str" | "Path":
            return isinstance(value, str)
        case "None":
            return value is None
        case "choice":
            return bool(value == kind.choice) and isinstance(value, bool) == isinstance(kind.choice, bool)
        case "object":
            return isinstance(value, dict)
        case "mapping":
            return isinstance(value, dict) and all(fits(inner, kind.items) for inner in value.values())
    has_length = isinstance(value, list) and kind.length in (None, len(value))
    return has_length and all(fits(inner, kind.items) for inner in value)


def in_words(kinds: Sequence[Kind]) -> str:
    """What is expected, such as "an integer or null".

    >>> in_words([PLAIN["int"], PLAIN["None"]]), in_words([choice("val"), choice("test")])
    ('an integer or null', 'val or test')
    """
    parts = list(dict.fromkeys(_in_words(kind) for kind in kinds if kind.name != "object" or len(kinds) == 1))
    if IN_WORDS["float"] in parts and IN_WORDS["int"] in parts:
        parts.remove(IN_WORDS["int"])
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _in_words(kind: Kind) -> str:
    if kind.name == "choice":
        return str(kind.choice)
    if kind.name == "list":
        items = " or ".join(PLURAL.get(item.name, "") or _in_words(item) for item in kind.items if item != ANY)
        return f"a list of {'' if kind.length is None else f'{kind.length} '}{items or 'values'}"
    return IN_WORDS.get(kind.name, "anything")


def nearest(value: Any, kinds: Sequence[Kind]) -> str | None:
    """The value that was probably meant, as one would type it; None where none is near.

    Args:
        value: which is of none of the kinds.
        kinds: what is allowed.

    >>> nearest("three", [PLAIN["int"]]), nearest("1e-3x", [PLAIN["float"]]), nearest("yes", [PLAIN["bool"]])
    ('3', '1e-3', 'true')
    """
    text = str(value).strip().lower()
    names = {kind.name for kind in kinds}
    choices = {str(kind.choice).lower(): str(kind.choice) for kind in kinds if kind.name == "choice"}
    if near := difflib.get_close_matches(text, choices, n=1, cutoff=0.5):
        return choices[near[0]]
    if names & {"int", "float"} and (number := _number(text, is_whole="float" not in names)) is not None:
        return number
    if "bool" in names and text in TRUE | FALSE:
        return (TRUE | FALSE)[text]
    if "None" in names and text in ("none", "nil", "~", "off", "no", "false"):
        return "null"
    if "list" in names and value is not None and not isinstance(value, list | dict):
        parts = [_typed(part.strip()) for part in str(value).split(",")]
        lists = [kind for kind in kinds if kind.name == "list"]
        return f"[{','.join(map(str, parts))}]" if fits(parts, lists) else None
    if names & {"str", "Path"} and isinstance(value, int | float):
        return f"'{value}'"
    return None


def _number(text: str, *, is_whole: bool) -> str | None:
    if text in SPOKEN:
        return str(SPOKEN.index(text))
    found = re.match(r"[-+]?\d[\d_]*(\.\d*)?(e[-+]?\d+)?", text.replace(",", "."))
    if found is None:
        return None
    number = found.group(0)
    return f"{round(float(number))}" if is_whole else number


def _typed(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
