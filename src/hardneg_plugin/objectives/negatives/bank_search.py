"""The nearest reports of each study in a bank, searched piece by piece: memory does not grow with the number of studies."""

from collections.abc import Iterable

import torch
from torch import Tensor

from hardneg_plugin.functional.hard_negatives import match_mask, most_similar
from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.functional.unit_length import unit_length


def as_embeddings(kept: Tensor) -> Tensor:
    """Kept rows in float32 at unit length, which rounding to fewer bits leaves by some 1e-4."""
    return kept if kept.dtype == torch.float32 else unit_length(kept.float())


@torch.no_grad()
def nearest_studies(
    keys: Tensor, reports: Tensor, candidates: Iterable[tuple[Tensor, ...]], *, k: int, ceiling: float = 1.0
) -> Tensor:
    """For each of S studies the k nearest of all candidates that are no matches.

    Args:
        keys: `(S, M)` int64 match keys, that of the study first.
        reports: `(S, D)` embeddings as they are kept, on any device.
        candidates: match keys `(C, M)` and reports `(C, D)`, piece by piece, on the device that the search runs on. It takes some
            25 bytes times `max(64 C, 4 million)` there.
        k: >= 1.
        ceiling: as of `most_similar`.

    Returns:
        `(S, k)` study keys, nearest first, padded with `UNKNOWN`, on the device of `keys`.

    >>> keys, reports = torch.arange(3)[:, None], torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> nearest_studies(keys, reports, [(keys[:2], reports[:2]), (keys[2:], reports[2:])], k=1).tolist()
    [[1], [2], [1]]
    """
    names = torch.full((len(keys), k), UNKNOWN, device=keys.device)
    best = torch.full((len(keys), k), -torch.inf, device=keys.device)
    known = (keys != UNKNOWN).any(dim=0).nonzero()[:, 0]  # other columns need no comparison
    compared = keys[:, known]
    for some_keys, some_reports in candidates:
        device = some_keys.device
        others, other_keys = as_embeddings(some_reports), some_keys[:, known.to(device)]
        chunk = max(64, 2**22 // max(len(others), 1))
        for start in range(0, len(keys), chunk):
            rows = slice(start, start + chunk)
            similarity = as_embeddings(reports[rows].to(device, non_blocking=True)) @ others.T
            is_match = match_mask(compared[rows].to(device, non_blocking=True), other_keys)
            index, valid = most_similar(similarity, is_match, k=k, ceiling=ceiling)
            found = similarity.gather(1, index).masked_fill(~valid, -torch.inf)
            both = torch.cat([best[rows].to(device), found], dim=1)
            both_names = torch.cat([names[rows].to(device), some_keys[:, 0][index].where(valid, UNKNOWN)], dim=1)
            # stable: of equal ones that which came first
            order = both.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best[rows], names[rows] = both.gather(1, order), both_names.gather(1, order)
    return names
