"""Minimal edits of reports: copies in which a few facts are changed and nothing else."""

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from numpy.random import Generator

Stated = tuple[str, Hashable]
"""A finding and its attributes, as readers of findings give it."""


class Change(NamedTuple):
    """What a report states in one place before and after an edit; None: nothing."""

    before: Stated | None
    after: Stated | None

    @property
    def name(self) -> str:
        """Of the finding."""
        stated = self.before or self.after
        assert stated is not None
        return stated[0]


class EditedReport(NamedTuple):
    """An edited copy of a report."""

    text: str
    changes: tuple[Change, ...]
    """One for each finding, in the order in which they were made."""


class ReportEditor(Protocol):
    """What edits the reports of a data set."""

    def __call__(self, report: str, n: int, rng: Generator) -> EditedReport | None:
        """A copy with exactly n findings changed; None where the report does not offer n, or the copy does not read so.

        Args:
            report: as written.
            n: a positive integer.
            rng: draws the edit.
        """
        ...
