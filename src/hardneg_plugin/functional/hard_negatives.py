"""Which pairs of studies must not count as negatives, and which other reports are nearest to a study's report."""

import torch
from torch import Tensor

from hardneg_plugin.functional.match_keys import UNKNOWN


def match_mask(keys: Tensor, candidate_keys: Tensor) -> Tensor:
    """Which pairs of studies and candidates match: those with equal keys in any column; `UNKNOWN` (-1) equals nothing.

    Args:
        keys: `(B, M)` int64; each column identifies a study in one respect (`MatchKeys.columns`).
        candidate_keys: `(N, M)` int64.

    Returns:
        `(B, N)` bool.

    Raises:
        ValueError: numbers of columns that differ.

    >>> match_mask(torch.tensor([[7, 1]]), torch.tensor([[7, 2], [8, 1], [8, 2], [-1, 3]]))
    tensor([[ True,  True, False, False]])
    """
    if keys.ndim != 2 or candidate_keys.ndim != 2 or keys.shape[1] != candidate_keys.shape[1]:
        raise ValueError(
            "Expected `keys` (B, M) and `candidate_keys` (N, M) with one M, "
            f"but got {tuple(keys.shape)} and {tuple(candidate_keys.shape)}."
        )
    known = keys.masked_fill(keys == UNKNOWN, UNKNOWN - 1)  # which no key equals
    is_match = torch.zeros(len(keys), len(candidate_keys), dtype=torch.bool, device=keys.device)
    for column, candidates in zip(known.unbind(1), candidate_keys.unbind(1), strict=True):
        is_match |= column[:, None] == candidates  # (B, N) at a time, not (B, N, M)
    return is_match


def are_matches(keys: Tensor, candidate_keys: Tensor) -> Tensor:
    """`match_mask` where each study has candidates for itself alone.

    Args:
        keys: `(B, M)` int64.
        candidate_keys: `(B, K, M)` int64.

    Returns:
        `(B, K)` bool.

    >>> are_matches(torch.tensor([[7, -1]]), torch.tensor([[[7, 2], [8, -1]]]))
    tensor([[ True, False]])
    """
    keys = keys[:, None]
    return ((candidate_keys == keys) & (keys != UNKNOWN)).any(dim=-1)


@torch.no_grad()
def most_similar(
    similarity: Tensor,
    is_match: Tensor,
    *,
    k: int = 1,
    pool: int | None = None,
    ceiling: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """For every study the k candidates most similar to it that are no matches: its hard negatives.

    Args:
        similarity: `(B, N)` cosines of each study's report with each candidate report; NaN is never chosen.
        is_match: `(B, N)` bool; a match is never chosen.
        k: how many to choose, >= 1.
        pool: draw the k at random from this many most similar ones, >= k; None: take the k most similar.
        ceiling: candidates with a cosine above this count as matches too.
        generator: for the draws, on the device of `similarity`; None: the global one.

    Returns:
        `index (B, k)` int64 into the candidates, and `valid (B, k)` bool: False, with index 0, where there are fewer than k
        candidates. Most similar first unless drawn from a pool.

    Raises:
        ValueError: shapes that do not fit, or k and pool out of range.
    """
    if is_match.shape != similarity.shape:
        raise ValueError(f"Expected `is_match` of shape {tuple(similarity.shape)}, but got {tuple(is_match.shape)}.")
    pool = k if pool is None else pool
    if not 1 <= k <= pool:
        raise ValueError(f"Expected 1 <= k <= pool, but got k = {k} and pool = {pool}.")
    # a rounding error above 1 must not fall to the default ceiling
    similarity = similarity.masked_fill(is_match | ~(similarity <= ceiling + 1e-6), -torch.inf)
    found, index = similarity.topk(min(pool, similarity.shape[1]), dim=1)
    if pool > k:
        lot = torch.rand(found.shape, generator=generator, device=found.device)
        chosen = lot.masked_fill(found == -torch.inf, -1).topk(min(k, lot.shape[1]), dim=1).indices
        found, index = found.gather(1, chosen), index.gather(1, chosen)
    valid = found > -torch.inf
    missing = k - valid.shape[1]
    if missing:
        valid, index = (torch.nn.functional.pad(found, (0, missing)) for found in (valid, index))
    return index.masked_fill(~valid, 0), valid


def nearest_reports(
    reports: Tensor,
    candidates: Tensor,
    is_match: Tensor,
    *,
    k: int = 1,
    pool: int | None = None,
    ceiling: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """`most_similar` by the cosine of report embeddings.

    Args:
        reports: `(B, D)`, unit length.
        candidates: `(N, D)`, unit length.
        is_match, k, pool, ceiling, generator: as of `most_similar`.
    """
    with torch.no_grad():
        similarity = reports.float() @ candidates.float().T
    return most_similar(similarity, is_match, k=k, pool=pool, ceiling=ceiling, generator=generator)


def mine(
    reports: Tensor, keys: Tensor, *, k: int, ceiling: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """For each of S studies its k nearest reports among the others that are no matches.

    Args:
        reports: `(S, D)`, unit length.
        keys: `(S, M)` int64 match keys.
        k: >= 1.
        ceiling: as of `most_similar`.
        chunk: studies at a time; memory is some 25 bytes times `chunk * S`. None: about 100 MB, but 64 studies at least.

    Returns:
        `index (S, k)` and `valid (S, k)` as of `most_similar`, nearest first.
    """
    chunk = max(64, 2**22 // max(len(reports), 1)) if chunk is None else chunk
    keys = keys[:, (keys != UNKNOWN).any(dim=0)]  # columns that are unknown throughout need no comparison
    # allocated before the loop: results kept between its large temporaries would fragment the memory
    index = torch.empty(len(reports), k, dtype=torch.int64, device=reports.device)
    valid = torch.empty(len(reports), k, dtype=torch.bool, device=reports.device)
    for start in range(0, len(reports), chunk):
        rows = slice(start, start + chunk)
        is_match = match_mask(keys[rows], keys)
        is_match.diagonal(start).fill_(True)  # itself, though its keys be unknown
        index[rows], valid[rows] = nearest_reports(reports[rows], reports, is_match, k=k, ceiling=ceiling)
    return index, valid
