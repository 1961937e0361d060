"""How far a command is, where a person looks on."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.progress import track

T = TypeVar("T")


def progress(steps: Iterable[T], name: str) -> Iterable[T]:
    """Go through the steps with a bar, which is gone at their end; without one where the output is no terminal."""
    return track(steps, description=name, transient=True, disable=not sys.stdout.isatty())
