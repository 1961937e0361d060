"""The exact search for the k most similar other studies of each study, chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.errors import require_count, require_number
from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.neighbours.embedders import TextEmbeddings, is_sparse
from hardneg_plugin.neighbours.groups import Groups

BLOCK = 8192
"""Candidates that a chunk of studies is compared with at a time."""
_FIRST = 256  # candidates in the first block, all of which have to be sorted

Cosines = NDArray[np.float32]
Indices = NDArray[np.int64]
Track = Callable[[Sequence[range]], Iterable[range]]
"""Iterates over chunks, as a progress bar does."""


@dataclass(frozen=True)
class NeighbourRule:
    """Which studies may be negatives of which, and how many of them to find.

    Args:
        groups: studies of one group match, and never become each other's negatives.
        ceiling: nor do studies whose cosine is higher; in (-1, 1].
        k: how many to find for each study, >= 1.
        left_out: `(N,)` bool, studies that are no neighbours and have none; None: none is left out.

    Raises:
        UserError: a number is out of its range.

    >>> rule = NeighbourRule({"patient": np.array([0, 0, 1])})
    >>> rule.is_match(np.array([0, 0, 0]), np.array([0, 1, 2])).tolist()
    [True, True, False]
    """

    groups: Groups
    ceiling: float = 1.0
    k: int = 1
    left_out: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        require_count(self.k, "k")
        require_number(self.ceiling, "ceiling", "a cosine in (-1, 1]", above=-1, most=1)

    def is_match(self, studies: Indices, candidates: Indices) -> NDArray[np.bool_]:
        """Which of P pairs match, `(P,)` bool; a study matches itself.

        Args:
            studies: `(P,)`.
            candidates: `(P,)`.
        """
        found: NDArray[np.bool_] = studies == candidates
        for group in self.groups.values():
            own = group[studies]
            found |= (own == group[candidates]) & (own != UNKNOWN)
        if self.left_out is not None:
            found |= self.left_out[studies] | self.left_out[candidates]
        return found

    def is_above(self, scores: Cosines) -> NDArray[np.bool_]:
        """Which scores are above the ceiling; a rounding error above it does not count."""
        is_above: NDArray[np.bool_] = scores > np.float32(self.ceiling + 1e-6)
        return is_above


@dataclass(frozen=True)
class Neighbours:
    """The nearest other studies of each of N studies."""

    index: Indices
    """`(N, k)`, nearest first, the lower index first among equals; -1 where there are fewer."""
    scores: Cosines
    """`(N, k)` cosines; 0 where there are fewer."""
    above: NDArray[np.bool_]
    """`(N,)`: whether a study that does not match is more similar than the ceiling."""
    pairs_above: int
    """Pairs of such studies, each counted once."""

    @classmethod
    def none(cls, number: int, k: int) -> "Neighbours":
        """The neighbours of N studies before the search.

        Args:
            number: N.
            k: places for each study.
        """
        index, scores = np.full((number, k), -1, dtype=np.int64), np.zeros((number, k), dtype=np.float32)
        return cls(index, scores, above=np.zeros(number, dtype=bool), pairs_above=0)


class Search(Protocol):
    """Finds neighbours."""

    def __call__(self, embeddings: TextEmbeddings, rule: NeighbourRule, *, track: Track = iter) -> Neighbours:
        """The nearest studies of each study.

        Args:
            embeddings: `(N, D)`, unit-length.
            rule: which studies count, and how many.
            track: iterates over the chunks.
        """


@dataclass(frozen=True)
class ChunkedSearch:
    """Compares a chunk of studies with a block of candidates at a time: sparse embeddings by scipy, dense ones by torch.

    The result does not depend on the chunk, and memory does not grow with the number of studies. Beside the embeddings, each study
    of a chunk takes 10 bytes times `BLOCK`, or 50 where hardly any study may be another's negative; with sparse embeddings,
    4 bytes times D more.

    Args:
        chunk: studies at a time, >= 1.

    Raises:
        UserError: the chunk is out of its range.

    >>> import torch
    >>> embeddings = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    >>> same_patient = {"patient": np.array([0, 0, 1])}
    >>> ChunkedSearch()(embeddings, NeighbourRule(same_patient)).index.tolist()
    [[2], [2], [1]]
    """

    chunk: int = 256

    def __post_init__(self) -> None:
        require_count(self.chunk, "chunk", "a positive number of studies")

    def __call__(self, embeddings: TextEmbeddings, rule: NeighbourRule, *, track: Track = iter) -> Neighbours:
        """See `Search`."""
        found = Neighbours.none(embeddings.shape[0], rule.k)
        for rows in track(self.chunks(embeddings.shape[0])):
            found = exact_neighbours(embeddings, np.arange(rows.start, rows.stop), rule).written_into(found)
        return found

    def chunks(self, number: int) -> list[range]:
        """The rows of each chunk.

        >>> ChunkedSearch(chunk=2).chunks(5)
        [range(0, 2), range(2, 4), range(4, 5)]
        """
        return [range(start, min(start + self.chunk, number)) for start in range(0, number, self.chunk)]


class ChunkNeighbours:
    """The nearest k candidates so far of each of the C studies of a chunk.

    Args:
        rows: `(C,)`, the studies.
        rule: which candidates count, and how many.
    """

    def __init__(self, rows: Indices, rule: NeighbourRule) -> None:
        self._rows, self._rule = rows, rule
        self.least: Cosines = np.full(len(rows), -np.inf, dtype=np.float32)
        """`(C,)`: the score that a candidate has to exceed; -inf for a study with fewer than k."""
        self.above: NDArray[np.bool_] = np.zeros(len(rows), dtype=bool)
        self.pairs_above: Indices = np.zeros(len(rows), dtype=np.int64)
        """`(C,)`: pairs above the ceiling with a study of a higher index."""
        # a row for each pair, sorted by study (its place in the chunk), and nearest first
        self._studies: Indices = np.empty(0, dtype=np.int64)
        self._candidates: Indices = np.empty(0, dtype=np.int64)
        self._scores: Cosines = np.empty(0, dtype=np.float32)

    def add(self, studies: Indices, candidates: Indices, scores: Cosines) -> None:
        """Take in P new pairs.

        Args:
            studies: `(P,)`, places in the chunk.
            candidates: `(P,)`, among all studies.
            scores: `(P,)`, their cosines.
        """
        allowed = np.isfinite(scores) & ~self._rule.is_match(self._rows[studies], candidates)
        studies, candidates, scores = studies[allowed], candidates[allowed], scores[allowed]
        above = self._rule.is_above(scores)
        self.above[studies[above]] = True
        upwards = studies[above][candidates[above] > self._rows[studies[above]]]
        self.pairs_above += np.bincount(upwards, minlength=len(self._rows))
        studies = np.concatenate([self._studies, studies[~above]])
        candidates = np.concatenate([self._candidates, candidates[~above]])
        scores = np.concatenate([self._scores, scores[~above]])
        order = np.lexsort((candidates, -scores, studies))
        order = order[self._places(studies[order]) < self._rule.k]
        self._studies, self._candidates, self._scores = studies[order], candidates[order], scores[order]
        last = self._places(self._studies) == self._rule.k - 1
        self.least[self._studies[last]] = self._scores[last]

    def written_into(self, found: Neighbours) -> Neighbours:
        """The neighbours found so far, with those of this chunk filled in."""
        rows, places = self._rows[self._studies], self._places(self._studies)
        found.index[rows, places], found.scores[rows, places] = self._candidates, self._scores
        found.above[self._rows] = self.above
        return Neighbours(found.index, found.scores, found.above, found.pairs_above + int(self.pairs_above.sum()))

    def _places(self, studies: Indices) -> Indices:
        """The place of each pair among those of its study; `studies` are sorted."""
        places: Indices = np.arange(len(studies)) - np.searchsorted(studies, studies)
        return places


def exact_neighbours(embeddings: TextEmbeddings, rows: Indices, rule: NeighbourRule) -> ChunkNeighbours:
    """The nearest studies of each of the C studies of a chunk, by comparing them with all others.

    Args:
        embeddings: `(N, D)`, unit-length.
        rows: `(C,)`, the studies.
        rule: which studies count, and how many.
    """
    kept = ChunkNeighbours(rows, rule)
    compare = _comparison(embeddings, rows)
    for block in _blocks(embeddings.shape[0]):
        scores = compare(block)  # (candidates, studies)
        # only candidates that beat the k-th so far: an equal one has a higher index, and so comes after it
        places = np.flatnonzero(scores > kept.least)
        candidates, studies = np.divmod(places, len(rows))
        kept.add(studies, candidates + block.start, scores.reshape(-1)[places])
    return kept


def _blocks(number: int) -> Iterator[range]:
    start, size = 0, _FIRST
    while start < number:
        yield range(start, min(start + size, number))
        start, size = start + size, min(2 * size, BLOCK)


def _comparison(embeddings: TextEmbeddings, rows: Indices) -> Callable[[range], Cosines]:
    """A function from a block of candidates to their cosines with the chunk's studies, `(candidates, studies)`.

    A cosine does not depend on what else is compared at the same time, so ties stay ties.
    """
    if is_sparse(embeddings):
        of_chunk = np.ascontiguousarray(embeddings[rows].toarray().T)  # (D, studies)

        # sums over a candidate's terms, in their order
        return lambda block: embeddings[block.start : block.stop] @ of_chunk
    studies = embeddings[rows].double().T
    # double: BLAS sums in any order, which is rounded away
    return lambda block: (embeddings[block.start : block.stop].double() @ studies).float().cpu().numpy()
