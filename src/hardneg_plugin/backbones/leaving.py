"""Studies whose reports are final leave the batch of a search, so that its steps read fewer rows."""

from typing import Protocol, runtime_checkable

from torch import Tensor

FEW_ENOUGH = 0.75
"""Studies leave once at most this share is open: those that stay must be copied."""


@runtime_checkable
class Shrinking(Protocol):
    """The state of a decoder that can go on with some of its studies."""

    def keep(self, studies: Tensor) -> None:
        """Go on with these studies.

        Args:
            studies: `(n,)` int64, indices into the studies of now.
        """


def kept_studies(is_open: Tensor, state: object) -> Tensor | None:
    """The studies to go on with, as indices `(n,)`; None: all of them.

    Args:
        is_open: `(B,)` bool, whether the search still reads a study.
        state: Keeps the same studies if it is `Shrinking`; otherwise all of them go on until none is open.
    """
    count = int(is_open.sum())
    if count and (count > FEW_ENOUGH * len(is_open) or not isinstance(state, Shrinking)):
        return None
    kept = is_open.nonzero()[:, 0]
    if isinstance(state, Shrinking) and count:
        state.keep(kept)
    return kept
