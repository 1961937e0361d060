"""The error that a user can cause, the check of a setting, and what to quote of other libraries' errors."""


class UserError(ValueError):
    """What was expected, what came, where, and what to do, in one line.

    Raised for input that a user controls: files, folders, annotation entries, config values. The command line prints the
    message as one line and exits with code 2; everything else keeps its traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")


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
