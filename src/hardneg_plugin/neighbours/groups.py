"""Which studies match, as integer groups: they must not become each other's negatives."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.functional.match_keys import UNKNOWN

Groups = Mapping[str, NDArray[np.int64]]
"""By reason, the group `(N,)` of each study: two studies of one group match. `UNKNOWN` (-1) matches nothing."""


def normalised(text: str) -> str:
    """The form in which two reports are compared: words and numbers, in lower case.

    >>> normalised("No effusion.  Heart-size is NORMAL; 1.5 cm nodule!\\n")
    'no effusion heart size is normal 1 5 cm nodule'
    """
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def groups_of(
    reports: Sequence[str],
    patients: Sequence[str | None] | None = None,
    labels: Sequence[str | None] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """The groups `(N,)` by normalised "text", by "patient" and by equal "label set"; without those of which nothing is known.

    Args:
        reports: of N studies.
        patients: their identifiers; None where unknown.
        labels: their canonical label sets; None where unknown.

    >>> groups_of(["A.", "a", "b"], ["p", None, None])["text"].tolist()
    [0, 0, 1]
    """
    names = {"text": [normalised(report) for report in reports], "patient": patients or (), "label set": labels or ()}
    return {reason: _codes(own) for reason, own in names.items() if any(name is not None for name in own)}


@dataclass(frozen=True)
class ExcludedCounts:
    """How much one reason excludes."""

    studies: int
    """Studies that match another one."""
    pairs: int
    """Pairs of matching studies, each counted once."""


def count_excluded(groups: Groups) -> dict[str, ExcludedCounts]:
    """How much each reason excludes, and "any" of them; counted from the sizes of the groups, not pair by pair.

    >>> count_excluded({"text": np.array([0, 0, 1]), "patient": np.array([0, 1, 1])})["any"]
    ExcludedCounts(studies=3, pairs=2)
    """
    number = len(next(iter(groups.values())))
    counts = {reason: _count(codes[:, None]) for reason, codes in groups.items()}
    any_sibling, pairs = np.zeros(number, dtype=bool), 0
    for size in range(1, len(groups) + 1):  # inclusion and exclusion
        for columns in combinations(groups.values(), size):
            siblings, together = _count(np.stack(columns, axis=1))
            any_sibling |= siblings
            pairs += together if size % 2 else -together
    found = {**counts, "any": (any_sibling, pairs)}
    return {reason: ExcludedCounts(int(siblings.sum()), pairs) for reason, (siblings, pairs) in found.items()}


def _count(columns: NDArray[np.int64]) -> tuple[NDArray[np.bool_], int]:
    """Which studies equal another one in all columns `(N, C)`, and how many pairs of equal studies there are."""
    siblings = np.zeros(len(columns), dtype=bool)
    known = (columns != UNKNOWN).all(axis=1)
    if not known.any():
        return siblings, 0
    _, group, sizes = np.unique(columns[known], axis=0, return_inverse=True, return_counts=True)
    siblings[known] = sizes[group.reshape(-1)] > 1
    return siblings, int((sizes.astype(np.int64) * (sizes - 1) // 2).sum())


def _codes(names: Iterable[Hashable | None]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array(
        [UNKNOWN if name is None else numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64
    )
