"""Features of the parts of a batch as those of the whole batch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import PairEmbeddings
from hardneg_plugin.plugin.batch_parts import cat_padded


def join_pairs(parts: Sequence[PairEmbeddings]) -> PairEmbeddings:
    """The features of several batches as those of one.

    >>> first = PairEmbeddings(torch.ones(1, 4), torch.ones(1, 4), words=torch.ones(1, 2, 4))
    >>> second = PairEmbeddings(torch.ones(2, 4), torch.ones(2, 4), words=torch.ones(2, 3, 4))
    >>> join_pairs([first, second]).word_mask
    tensor([[ True,  True, False],
            [ True,  True,  True],
            [ True,  True,  True]])

    Raises:
        UserError: a field that only some of them have.
    """
    if len(parts) == 1:
        return parts[0]
    regions, region_mask = _join_local(parts, "regions", "region_mask")
    words, word_mask = _join_local(parts, "words", "word_mask")
    negatives = _of_all(parts, "negatives")
    grids = {part.grid for part in parts}
    keys = [part.match_keys for part in parts]
    return PairEmbeddings(
        images=torch.cat([part.images for part in parts]),
        reports=torch.cat([part.reports for part in parts]),
        match_keys=MatchKeys(torch.cat([key.columns for key in keys]), all(key.has_study_ids for key in keys)),
        regions=regions,
        region_mask=region_mask,
        words=words,
        word_mask=word_mask,
        grid=grids.pop() if len(grids) == 1 else None,
        entities=_cat(_of_all(parts, "entities")),
        facts=_cat(_of_all(parts, "facts")),
        negatives=None if negatives is None else join_pairs(negatives),
    )


def pooled_only(pairs: PairEmbeddings) -> PairEmbeddings:
    """Without words and regions, which fill memory where no objective reads them."""
    negatives = None if pairs.negatives is None else pooled_only(pairs.negatives)
    without: dict[str, Any] = {"regions": None, "region_mask": None, "words": None, "word_mask": None, "grid": None}
    return replace(pairs, **without, negatives=negatives)


def _of_all(parts: Sequence[PairEmbeddings], name: str) -> list[Any] | None:
    values = [getattr(part, name) for part in parts]
    missing = sum(value is None for value in values)
    if 0 < missing < len(values):
        raise UserError(
            f"chunks: expected {name} of every part of the batch, but {missing} of {len(values)} have none."
        )
    return None if missing else values


def _cat(values: list[Tensor] | None) -> Tensor | None:
    return None if values is None else torch.cat(values)


def _join_local(parts: Sequence[PairEmbeddings], name: str, mask_name: str) -> tuple[Tensor | None, Tensor | None]:
    features = _of_all(parts, name)
    if features is None:
        return None, None
    masks = [getattr(part, mask_name) for part in parts]
    if len({values.shape[1] for values in features}) == 1 and all(mask is None for mask in masks):
        return torch.cat(features), None
    masks = [
        torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if mask is None else mask
        for values, mask in zip(features, masks, strict=True)
    ]
    return cat_padded(features), cat_padded(masks)
