"""Which studies of a batch can be contrasted: a feature that overflowed says nothing, and would spoil all others."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.functional.unit_length import has_direction
from hardneg_plugin.objectives.embeddings import PairEmbeddings


def usable_studies(pairs: PairEmbeddings, *, reads_parts: bool = False) -> Tensor:
    """Which studies have finite features, and pooled ones that are not of length zero; no wait for the device.

    Args:
        pairs: of B studies; their paired studies are not looked at.
        reads_parts: whether regions, words and entities count, too. What their masks leave out does not.

    Returns:
        `(B,)` bool.

    >>> usable_studies(PairEmbeddings(torch.ones(3, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0], [torch.inf, 1.0]])))
    tensor([ True, False, False])
    """
    usable = has_direction(pairs.images) & has_direction(pairs.reports)
    if reads_parts:
        for parts, mask in (
            (pairs.regions, pairs.region_mask),
            (pairs.words, pairs.word_mask),
            (pairs.entities, None),
        ):
            if parts is not None:
                is_finite = parts.detach().isfinite().all(-1)
                usable = usable & (is_finite if mask is None else is_finite | ~mask.bool()).all(-1)
    return usable


def without_unusable(pairs: PairEmbeddings, *, reads_parts: bool = False) -> PairEmbeddings:
    """The same with zeros for the features of studies that are not usable: still not usable, and no gradient reaches them.

    Args:
        pairs: of B studies; their paired studies are treated likewise.
        reads_parts: as of `usable_studies`; without it regions, words and entities stay as they are.
    """
    usable = usable_studies(pairs, reads_parts=reads_parts)
    names = ["images", "reports", *(["regions", "words", "entities"] if reads_parts else [])]
    given = {name: getattr(pairs, name) for name in names}
    cleaned: dict[str, Any] = {
        name: torch.where(usable.view(-1, *[1] * (features.ndim - 1)), features, 0)
        for name, features in given.items()
        if features is not None
    }
    if pairs.negatives is not None:
        cleaned["negatives"] = without_unusable(pairs.negatives, reads_parts=reads_parts)
    return replace(pairs, **cleaned)
