"""Splits by patient: drawn by a seed where a data set has none, and a count of patients who are in two."""

import math
from collections.abc import Mapping
from typing import Any

from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import match_key


def check_shares(shares: Mapping[Any, Any]) -> None:
    """Raise a UserError unless there is a share of each split and they add up to 1."""
    values = list(shares.values())
    if (
        set(shares) != set(SPLITS)
        or any(type(value) not in (int, float) or not 0 <= value <= 1 for value in values)
        or not math.isclose(sum(values), 1, abs_tol=1e-6)
    ):
        raise UserError(f"splits: expected shares of {', '.join(SPLITS)} that add up to 1, but got {dict(shares)}.")


def seeded_split(study: str, patient: str | None, shares: Mapping[SplitName, float], seed: int) -> SplitName:
    """The split of a study that has none of its own: by its patient, or by itself where the patient is not known.

    It depends on nothing else: neither on the other studies nor on their order.
    """
    whose = f"study {study}" if patient is None else f"patient {patient}"
    place = match_key(f"{seed} {whose}") / 2**63
    for name in SPLITS:
        place -= shares[name]
        if place < 0:
            return name
    return next(name for name in reversed(SPLITS) if shares[name])  # the shares added up to a bit less than 1


class PatientSplits:
    """Counts the studies whose patient also has studies in another split, which a model should not be tested on."""

    def __init__(self) -> None:
        self.strays = 0
        """Studies in another split than the first of their patient."""
        self._split_of: dict[int, SplitName] = {}

    def add(self, patient: str | None, split: SplitName) -> None:
        """Count a study."""
        if patient is not None:
            self.strays += self._split_of.setdefault(match_key(patient), split) != split
