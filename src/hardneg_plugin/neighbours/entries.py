"""What is indexed of many studies: each text once, in an order in which those that match lie together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.neighbours.search import Indices, NeighbourRule

TEXT = "text"
"""The group by which studies share an entry."""
LARGE = 64
"""Entries of a group from which on it is closed to its own; smaller ones are sorted out after the search."""


@dataclass(frozen=True)
class Entries:
    """U entries, each the studies of one text.

    Thousands of normal reports read the same, and many more have the same label set. An index of studies would return nothing
    but these to each of them. So a text is one entry, and a large group of matching entries is one range, which can be left out.

    >>> groups = {"text": np.array([0, 1, 0, 2]), "label set": np.array([1, 0, 1, 1])}
    >>> entries = Entries.of(NeighbourRule(groups), 4, large=2)
    >>> entries.studies.tolist(), entries.starts.tolist(), entries.closed.tolist()
    ([1, 0, 2, 3], [0, 1, 3, 4], [[0, 0], [1, 3], [1, 3]])
    """

    studies: Indices
    """The studies that can have neighbours, entry by entry; within one by their index."""
    starts: Indices
    """`(U + 1,)`: where each entry begins in `studies`."""
    closed: Indices
    """`(U, 2)`: the range of entries that match this one, first and end; 0, 0 where only single ones match."""

    @classmethod
    def of(cls, rule: NeighbourRule, number: int, large: int = LARGE) -> "Entries":
        """The entries of N studies.

        Args:
            rule: says which studies match.
            number: N.
            large: entries from which on a group is a range.
        """
        kept = np.arange(number) if rule.left_out is None else np.flatnonzero(~rule.left_out)
        _, entry = np.unique(_of_text(rule, number)[kept], return_inverse=True)
        studies = kept[np.argsort(entry, kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(entry))])
        codes = [_large_groups(codes[studies], starts, large) for name, codes in rule.groups.items() if name != TEXT]
        code = max(codes, key=lambda own: int((own != UNKNOWN).sum()), default=np.full(len(starts) - 1, UNKNOWN))
        # by group, then by their first study
        order = np.lexsort((studies[starts[:-1]], code))
        sizes = np.diff(starts)[order]
        studies = studies[_ranges(starts[order], sizes)]
        code = code[order]
        closed = np.stack([np.searchsorted(code, code), np.searchsorted(code, code, side="right")], axis=1)
        closed[code == UNKNOWN] = 0
        return cls(studies, np.concatenate([[0], np.cumsum(sizes)]), closed)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def entry_of(self, places: range) -> Indices:
        """The entries of the studies at some places of `studies`."""
        found: Indices = np.searchsorted(self.starts, np.arange(places.start, places.stop), side="right") - 1
        return found

    def members(self, entries: Indices, most: int) -> tuple[Indices, Indices]:
        """The first studies of some entries.

        Args:
            entries: `(P,)`.
            most: studies of each.

        Returns:
            The studies, and for each the place in `entries` of its own.
        """
        sizes = np.minimum(self.starts[entries + 1] - self.starts[entries], most)
        return self.studies[_ranges(self.starts[entries], sizes)], np.repeat(np.arange(len(entries)), sizes)


def _of_text(rule: NeighbourRule, number: int) -> Indices:
    """A code for each study: that of its text, or one of its own."""
    codes = rule.groups.get(TEXT, np.full(number, UNKNOWN))
    own: Indices = np.where(codes == UNKNOWN, np.arange(number) + codes.max(initial=0) + 1, codes)
    return own


def _large_groups(codes: Indices, starts: Indices, large: int) -> Indices:
    """For each entry the group that all its studies are of, if it is a large one; else `UNKNOWN`."""
    least, most = np.minimum.reduceat(codes, starts[:-1]), np.maximum.reduceat(codes, starts[:-1])
    code: Indices = np.where(least == most, least, UNKNOWN)
    names, inverse, sizes = np.unique(code, return_inverse=True, return_counts=True)
    return np.where((sizes < large)[inverse], UNKNOWN, names[inverse])


def _ranges(starts: Sequence[int] | Indices, sizes: Indices) -> Indices:
    """`range(start, start + size)` of each, one after another."""
    ends = np.cumsum(sizes)
    found: Indices = np.repeat(starts - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0)
    return found
