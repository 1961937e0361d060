"""Rich's console for texts of others."""

from typing import Any

from rich.console import Console
from rich.text import Text

from hardneg_plugin.terminal import printable


class PlainConsole(Console):
    """A console on which texts, also in tables, are `printable`, and hold neither markup nor names of emoji.

    Args:
        options: as of `rich.console.Console`.

    >>> PlainConsole(width=40).print("[red] :heart: \\x1b[31m")
    [red] :heart: \\x1b[31m
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As in rich."""
        return super().render_str(printable(text), **options)
