"""The error that a user can cause, the check of a setting, and what to quote of other libraries' errors."""

import math
from numbers import Integral, Real


class UserError(ValueError):
    """What was expected, what came, where, and what to do, in one line.

    Raised for input that a user controls: files, folders, annotation entries, config values. The command line prints the
    message as one line and exits with code 2; everything else keeps its traceback.
    """


class SharedError(UserError):
    """A `UserError` that all ranks raise, with one message; the first prints it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")


def message_of(error: UserError) -> str:
    """Its message, without the traceback that PyTorch puts around an error of a worker process.

    >>> message_of(UserError("data.root: no such folder."))
    'data.root: no such folder.'
    """
    text = str(error)
    _, raised, message = text.rpartition(f"\n{UserError.__module__}.{UserError.__qualname__}: ")
    return message.strip() if raised and text.startswith("Caught ") else text


def require(holds: bool, name: str, expected: str, value: object) -> None:
    """Check a value that a user sets.

    Args:
        holds: whether the value is as expected.
        name: of the setting, for the message.
        expected: of the value, in words.
        value: what came.

    Raises:
        UserError: `holds` is False.

    >>> require(0 < 2, "negatives.k", "a positive integer", 2)
    """
    if not holds:
        raise UserError(f"{name}: expected {expected}, but got {value}.")


def require_number(
    value: object,
    name: str,
    expected: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Check a number that a user sets: in its range, finite, and no bool.

    Args:
        value: what came.
        name: of the setting, for the message.
        expected: of the value, in words.
        least, most: the ends of the range.
        above, below: ends that are outside of it.
        whole: whether it must be an integer.

    Raises:
        UserError: it is not as expected.

    >>> require_number(0.5, "schedule.cap", "a hardness in [0, 1]", least=0, most=1)
    >>> require_number(math.nan, "schedule.cap", "a hardness in [0, 1]", least=0, most=1)
    Traceback (most recent call last):
    hardneg_plugin.errors.UserError: schedule.cap: expected a hardness in [0, 1], but got nan.
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    # an integer may be too large for a float, and is finite
    is_finite = is_number and (isinstance(value, Integral) or math.isfinite(value))  # type: ignore[arg-type]
    holds = is_finite and least <= value <= most and above < value < below  # type: ignore[operator]
    require(holds, name, expected, repr(value) if isinstance(value, str) else value)


def require_count(value: object, name: str, expected: str = "a positive integer", *, least: int = 1) -> None:
    """Check an integer that a user sets.

    Args:
        value: what came.
        name: of the setting, for the message.
        expected: of the value, in words.
        least: the smallest that may come.

    Raises:
        UserError: it is no integer, or too small.

    >>> require_count(2, "negatives.k")
    """
    require_number(value, name, expected, least=least, whole=True)
