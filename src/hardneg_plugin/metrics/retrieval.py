"""Retrieval: how high images rank their own reports, and reports their images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.metrics.peers import TIE, Peers
from hardneg_plugin.neighbours.groups import groups_of

CHUNK_ELEMENTS = 2**22
"""Similarities held at once, 16 MiB in float32: 41 images at a time against 100,000 reports."""


def retrieval_ranks(images: Tensor, reports: Tensor, text_keys: Tensor) -> Tensor:
    """The rank of each image's own report, or of one with the same text, among all reports by cosine similarity.

    1 + the number of reports with another text that are at least as similar as the best one with the same text. Ties and NaN count
    against the model: where all embeddings are equal, every report ranks last.

    Args:
        images: `(N, D)`, any length, any floating dtype.
        reports: `(N, D)`, row i the report of image i.
        text_keys: `(N,)` int64, equal for equal texts; -1 where unknown, which equals only itself.

    Returns:
        `(N,)` int64, in [1, N].

    Raises:
        ValueError: the shapes do not fit.

    >>> retrieval_ranks(torch.eye(3), torch.eye(3)[[0, 2, 1]], torch.arange(3))
    tensor([1, 3, 3])
    """
    if images.shape != reports.shape or images.ndim != 2 or text_keys.shape != images.shape[:1]:
        raise ValueError(
            "Expected `images` and `reports` of one shape (N, D) and `text_keys` (N,), but got "
            f"{tuple(images.shape)}, {tuple(reports.shape)} and {tuple(text_keys.shape)}."
        )
    studies = len(images)
    images, reports = F.normalize(images.float(), dim=-1), F.normalize(reports.float(), dim=-1)
    own = torch.arange(studies, device=images.device)
    ranks = [torch.empty(0, dtype=torch.int64, device=images.device)]
    for rows in own.split(max(1, CHUNK_ELEMENTS // max(1, studies))):
        with torch.autocast(images.device.type, enabled=False):
            similarity = images[rows] @ reports.T
        ranks.append(_ranks(similarity, rows, text_keys))
    return torch.cat(ranks)


def score_ranks(scores: Tensor, text_keys: Tensor) -> Tensor:
    """The ranks of `retrieval_ranks` by scores of pairs.

    Args:
        scores: `(N, N)`, of each anchor (a row) with each candidate (a column).
        text_keys: `(N,)` int64, as there.

    Returns:
        `(N,)` int64, in [1, N].
    """
    return _ranks(scores, torch.arange(len(scores), device=scores.device), text_keys)


def ranks_among(anchors: Tensor, candidates: Tensor, pools: Tensor) -> Tensor:
    """The rank of each anchor's own candidate among a few others, by cosine similarity; ties count against it.

    Args:
        anchors: `(N, D)`, any length, any floating dtype.
        candidates: `(N, D)`, row i that of anchor i.
        pools: `(N, K)` int64, rows of the other candidates of anchor i; -1 for none.

    Returns:
        `(N,)` int64, in [1, K + 1].
    """
    anchors, candidates = F.normalize(anchors.float(), dim=-1), F.normalize(candidates.float(), dim=-1)
    own = (anchors * candidates).sum(-1, keepdim=True)
    others = (anchors[:, None] * candidates[pools.clamp_min(0)]).sum(-1)  # sums, which autocast does not round
    return _ranks_among(own, others, pools)


def score_ranks_among(scores: Tensor, pools: Tensor) -> Tensor:
    """The ranks of `ranks_among` by scores of pairs.

    Args:
        scores: `(N, N)`, of each anchor (a row) with each candidate (a column).
        pools: `(N, K)` int64, as there.

    Returns:
        `(N,)` int64, in [1, K + 1].
    """
    return _ranks_among(scores.diagonal()[:, None], scores.gather(1, pools.clamp_min(0)), pools)


def embedding_ranks(images: Tensor, reports: Tensor, references: Sequence[str], peers: Peers) -> dict[str, list[float]]:
    """How high N images rank their own reports, and reports their images, by embeddings: N ranks for each key of `RECALL`.

    Ranks are among all studies, and among each study's peers; these are NaN where it has none.

    Args:
        images: `(N, D)`.
        reports: `(N, D)`, of the references.
        references: N texts; equal ones count as one.
        peers: those of the N studies.
    """
    directions = (images, reports), (reports, images)
    return _ranks_by_name(directions, retrieval_ranks, ranks_among, references, peers)


def pair_score_ranks(scores: Tensor, references: Sequence[str], peers: Peers) -> dict[str, list[float]]:
    """The ranks of `embedding_ranks` by scores of pairs.

    Args:
        scores: `(N, N)`, of each image (a row) with each report (a column).
        references: N texts; equal ones count as one.
        peers: those of the N studies.
    """
    return _ranks_by_name([(scores,), (scores.T,)], score_ranks, score_ranks_among, references, peers)


def _ranks_by_name(
    directions: Sequence[Sequence[Tensor]],
    rank: Callable[..., Tensor],
    rank_among: Callable[..., Tensor],
    references: Sequence[str],
    peers: Peers,
) -> dict[str, list[float]]:
    """The ranks in both directions, each the first arguments of `rank` and of `rank_among`."""
    device = directions[0][0].device
    keys, pools = torch.from_numpy(groups_of(references)["text"]).to(device), torch.from_numpy(peers.index).to(device)
    has_peers = (pools >= 0).any(dim=1)
    ranks = [rank(*inputs, keys) for inputs in directions]
    ranks += [torch.where(has_peers, rank_among(*inputs, pools).float(), torch.nan) for inputs in directions]
    names = ("rank", "r2i_rank", "peers_rank", "peers_r2i_rank")
    return {name: column.tolist() for name, column in zip(names, ranks, strict=True)}


def _ranks(scores: Tensor, rows: Tensor, text_keys: Tensor) -> Tensor:
    own = torch.arange(len(text_keys), device=rows.device)
    is_hit = (text_keys[rows, None] == text_keys) & (text_keys != UNKNOWN) | (rows[:, None] == own)
    best = scores.masked_fill(~is_hit, -torch.inf).amax(dim=1, keepdim=True)
    is_behind = scores < best - TIE
    return 1 + (~is_hit & ~is_behind).sum(dim=1)


def _ranks_among(own: Tensor, others: Tensor, pools: Tensor) -> Tensor:
    is_behind = others < own - TIE  # false for NaN as well
    return 1 + (~is_behind & (pools >= 0)).sum(dim=1)
