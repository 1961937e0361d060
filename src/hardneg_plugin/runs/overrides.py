"""Overrides on a command line: a path as a value, and those of an earlier run, which a resumed run takes again."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.trusted import INSTEAD

PERSONAL = ("resume", "trust", "overwrite")
"""Only the person at the command line may set these."""
PLAIN = ("monitor",)
"""Settings without a dot in their key that take any text: no config group has such a name."""

MAX_INTERPOLATIONS = 8
"""Of an untrusted run: values that refer to values that refer to values double their size with each."""


def quoted(path: str | Path) -> str:
    """A path as the value of an override, whatever characters are in it.

    >>> print(quoted("a, b"), quoted("it's"))
    'a, b' 'it\\'s'
    """
    # Hydra reads a backslash as an escape only before a quote
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(path))
    return f"'{escaped}'"


def check_overrides(overrides: Sequence[str], where: str) -> None:
    """Refuse overrides that would make Hydra do more than compose the project's configs.

    The targets of the composed config are checked by `check_trusted`.

    Args:
        overrides: those of the command line that started the run.
        where: what they were read from, for the message.

    Raises:
        UserError: an override is an option of the command line, a setting of Hydra, a config from elsewhere, or looks up a value
            such as an environment variable; or more than `MAX_INTERPOLATIONS` refer to other values.

    >>> check_overrides(["hardening=arc", "seed=3"], "overrides.yaml")
    """
    if sum(text.count("${") for text in overrides) > MAX_INTERPOLATIONS:
        raise UserError(
            f"{where}: more than {MAX_INTERPOLATIONS} values refer to others, which could make any size of them. {INSTEAD}"
        )
    for text in overrides:
        reason = _objection(text)
        if reason is not None:
            raise UserError(f"{where}: {text[:200]!r} {reason}. {INSTEAD}")


def _objection(text: str) -> str | None:
    """What is wrong with an override; None if nothing is."""
    if text.startswith("-"):
        return "is an option of the command line"
    if re.search(r"\$\{[^}]*:", text):
        return "looks up a value outside the config"
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
        value = override.value()
    except (HydraException, ValueError) as error:
        return f"is no override ({str(error).splitlines()[0]})"
    name = str(override.key_or_group)
    if re.split(r"[./]", name)[0] == "hydra" or (override.package or "").split(".")[0] in ("hydra", "_global_"):
        return "is a setting of Hydra's"
    if name in PERSONAL:
        return "must come from your own command line"
    if override.is_sweep_override():
        return "has several values"
    # a key without dots may be a config group, whose value names a file: it must be one of the project's
    choices = [choice for choice in (value if isinstance(value, list) else [value]) if isinstance(choice, str)]
    if "." not in name and name not in PLAIN and not all(re.fullmatch(r"[\w-]*", choice) for choice in choices):
        return "names a config from outside the project"
    return None
