"""Splits by patient, drawn by a seed where a data set has none."""

import math
from collections.abc import Mapping
from typing import Any

from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import match_key


def check_shares(shares: Mapping[Any, Any]) -> None:
    """Raise a UserError unless there is a share in [0, 1] of each split and they add up to 1."""
    values = list(shares.values())
    if (
        set(shares) != set(SPLITS)
        or any(type(value) not in (int, float) or not 0 <= value <= 1 for value in values)
        or not math.isclose(sum(values), 1, abs_tol=1e-6)
    ):
        raise UserError(
            f"splits: expected shares of {', '.join(SPLITS)} that add up to 1, but got {dict(shares)}.{_share_left(shares)}"
        )


def _share_left(shares: Mapping[Any, Any]) -> str:
    """The share of training that would do, as a sentence; empty where another share is wrong."""
    if set(shares) != set(SPLITS):
        return ""
    others = [share for name, share in shares.items() if name != "train"]
    if any(type(share) not in (int, float) or share < 0 for share in others) or not sum(others) <= 1:
        return ""
    return f" With these of val and test set splits.train={1 - sum(others):.6g}."


def seeded_split(study: str, patient: str | None, shares: Mapping[SplitName, float], seed: int) -> SplitName:
    """The split of a study whose source has none: by its patient, or by its id if the patient is unknown.

    Neither the other studies nor their order change it.

    Args:
        study: its id.
        patient: its patient; None: unknown.
        shares: of the patients in each split, as `check_shares` allows.
        seed: another seed gives another split.

    >>> seeded_split("s1", "p7", {"train": 0.7, "val": 0.1, "test": 0.2}, seed=0)
    'train'
    """
    whose = f"study {study}" if patient is None else f"patient {patient}"
    place = match_key(f"{seed} {whose}") / 2**63
    for name in SPLITS:
        place -= shares[name]
        if place < 0:
            return name
    return next(name for name in reversed(SPLITS) if shares[name])  # rounding: the shares add up to a bit less than 1
