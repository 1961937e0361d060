"""Candidate prompts: what may be found and where, as sentences that state or deny it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

ABSENT, PRESENT, UNKNOWN = 0, 1, -1
"""What a report says of a prompt."""


class Prompt(NamedTuple):
    """Something that may be found, and where.

    >>> Prompt("pleural effusion", "left").absent
    'there is no left pleural effusion'
    """

    entity: str
    position: str | None = None
    """As it stands before the entity ("left", "right upper lobe"); None: anywhere."""

    @property
    def phrase(self) -> str:
        """The finding as a noun: "left pleural effusion"."""
        return self.entity if self.position is None else f"{self.position} {self.entity}"

    @property
    def present(self) -> str:
        """The sentence that it is there."""
        return f"there is {self.phrase}"

    @property
    def absent(self) -> str:
        """The sentence that it is not."""
        return f"there is no {self.phrase}"


class Knowledge(Protocol):
    """The candidate prompts for one kind of studies, and what a report says of each."""

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Q prompts, always in the same order."""
        ...

    def facts(self, report: str) -> list[int]:
        """For each prompt `PRESENT`, `ABSENT` or `UNKNOWN`."""
        ...

    def wordings(self) -> Mapping[str, tuple[Sequence[str], Sequence[str]]]:
        """By entity, sentences that state it and as many that deny it, in the words of reports."""
        ...


def swaps(prompts: Sequence[Prompt]) -> Tensor:
    """Which pairs of Q prompts name the same entity at two different positions: `(Q, Q)` bool."""
    entity, position = np.array([(prompt.entity, prompt.position or "") for prompt in prompts]).T
    is_placed = position != ""
    is_swap = (entity[:, None] == entity) & (position[:, None] != position) & is_placed[:, None] & is_placed
    return torch.from_numpy(is_swap)
