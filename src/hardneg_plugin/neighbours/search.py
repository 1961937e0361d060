"""The exact search: the k most similar other studies of each, chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours.embedders import TextEmbeddings
from hardneg_plugin.neighbours.groups import UNKNOWN, Groups

BLOCK = 8192
"""Candidates that a chunk of studies is compared with at a time."""
_FIRST = 256  # of them where nothing is known yet of what is near, so that all have to be looked at

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Track = Callable[[Sequence[range]], Iterable[range]]


@dataclass(frozen=True)
class NeighbourRule:
    """What may be a negative of what.

    Args:
        groups: studies of one group match, and never become each other's negatives.
        ceiling: nor do those with a cosine above this, in (-1, 1].
        k: how many to keep, at least 1.

    Raises:
        UserError: a number is out of its range.
    """

    groups: Groups
    ceiling: float = 1.0
    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k: expected at least one neighbour per study, but got {self.k}.")
        if not -1 < self.ceiling <= 1:
            raise UserError(f"ceiling: expected a cosine in (-1, 1], but got {self.ceiling}.")

    def is_match(self, studies: Indices, candidates: Indices) -> NDArray[np.bool_]:
        """Of P pairs, which match; a study matches itself."""
        found: NDArray[np.bool_] = studies == candidates
        for group in self.groups.values():
            own = group[studies]
            found |= (own == group[candidates]) & (own != UNKNOWN)
        return found

    def is_above(self, scores: Floats) -> NDArray[np.bool_]:
        """Which scores are above the ceiling; a rounding error above 1 is not."""
        is_above: NDArray[np.bool_] = scores > np.float32(self.ceiling + 1e-6)
        return is_above


@dataclass(frozen=True)
class Neighbours:
    """The nearest other studies of N studies."""

    index: Indices
    """`(N, k)`, nearest first, the lower index first among equals; -1 where there are fewer."""
    scores: Floats
    """`(N, k)` cosines; 0 where there are fewer."""
    above: NDArray[np.bool_]
    """`(N,)`: has another study that is no match, but more similar than the ceiling."""
    pairs_above: int
    """Pairs of such studies, each counted once."""


class Search(Protocol):
    """How neighbours are found."""

    def __call__(self, embeddings: TextEmbeddings, rule: NeighbourRule, *, track: Track = iter) -> Neighbours:
        """The nearest of all studies by unit-length embeddings `(N, D)`; `track` goes through the chunks, as a progress bar."""
        ...


@dataclass(frozen=True)
class ChunkedSearch:
    """Compares a chunk of studies with a block of candidates at a time: by scipy where embeddings are sparse, else by torch.

    The result does not depend on the chunk. Memory beside the embeddings grows with the chunk, and not with the studies: for each
    of a chunk some 10 bytes times `BLOCK`, 50 at the worst, where hardly any study may be another's negative; and where
    embeddings are sparse, 4 times their width.

    Args:
        chunk: studies at a time, at least 1.

    Raises:
        UserError: the chunk is out of its range.
    """

    chunk: int = 256

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def __call__(self, embeddings: TextEmbeddings, rule: NeighbourRule, *, track: Track = iter) -> Neighbours:
        """See `Search`."""
        found = no_neighbours(embeddings.shape[0], rule.k)
        for rows in track(chunks(embeddings.shape[0], self.chunk)):
            kept = ChunkNeighbours(rows, rule)
            compare = _comparison(embeddings, rows)
            for block in _blocks(embeddings.shape[0]):
                scores = compare(block)  # (candidates, studies)
                # Only what beats the k-th so far; its equals come later, and so after it.
                places = np.flatnonzero(scores > kept.least)
                candidates, studies = np.divmod(places, len(rows))
                kept.add(studies, candidates + block.start, scores.reshape(-1)[places])
            found = kept.written_into(found)
        return found


class ChunkNeighbours:
    """The best k so far of each study of a chunk.

    Args:
        rows: the studies.
        rule: what may be kept.
    """

    def __init__(self, rows: range, rule: NeighbourRule) -> None:
        self._rows, self._rule = rows, rule
        self.least: Floats = np.full(len(rows), -np.inf, dtype=np.float32)
        """`(C,)`: what a candidate has to be above to be kept, or counted."""
        self.above: NDArray[np.bool_] = np.zeros(len(rows), dtype=bool)
        self._pairs_above = 0
        self._studies: Indices = np.empty(
            0, dtype=np.int64
        )  # within the chunk, in order; and so the next, nearest first
        self._candidates: Indices = np.empty(0, dtype=np.int64)
        self._scores: Floats = np.empty(0, dtype=np.float32)

    def add(self, studies: Indices, candidates: Indices, scores: Floats) -> None:
        """See P new pairs: a study of the chunk `(P,)`, a candidate of all `(P,)`, and their similarity `(P,)`."""
        allowed = ~self._rule.is_match(studies + self._rows.start, candidates)
        studies, candidates, scores = studies[allowed], candidates[allowed], scores[allowed]
        above = self._rule.is_above(scores)
        self.above[studies[above]] = True
        self._pairs_above += int((candidates[above] > studies[above] + self._rows.start).sum())
        studies = np.concatenate([self._studies, studies[~above]])
        candidates = np.concatenate([self._candidates, candidates[~above]])
        scores = np.concatenate([self._scores, scores[~above]])
        order = np.lexsort((candidates, -scores, studies))
        order = order[self._places(studies[order]) < self._rule.k]
        self._studies, self._candidates, self._scores = studies[order], candidates[order], scores[order]
        last = self._places(self._studies) == self._rule.k - 1
        self.least[self._studies[last]] = self._scores[last]

    @property
    def is_full(self) -> NDArray[np.bool_]:
        """`(C,)`: which studies have k."""
        return self.least > -np.inf

    def written_into(self, found: Neighbours) -> Neighbours:
        """What was found so far with the studies of this chunk in it."""
        rows, places = self._studies + self._rows.start, self._places(self._studies)
        found.index[rows, places], found.scores[rows, places] = self._candidates, self._scores
        found.above[self._rows.start : self._rows.stop] = self.above
        return Neighbours(found.index, found.scores, found.above, found.pairs_above + self._pairs_above)

    def _places(self, studies: Indices) -> Indices:
        """The place of each pair among those of its study, from studies in order."""
        places: Indices = np.arange(len(studies)) - np.searchsorted(studies, studies)
        return places


def check_chunk(chunk: int) -> None:
    """Raise a UserError for a chunk without a study."""
    if chunk < 1:
        raise UserError(f"chunk: expected at least one study at a time, but got {chunk}.")


def chunks(number: int, chunk: int) -> list[range]:
    """The rows of each chunk."""
    return [range(start, min(start + chunk, number)) for start in range(0, number, chunk)]


def no_neighbours(number: int, k: int) -> Neighbours:
    """What is known of N studies before the first is looked at."""
    return Neighbours(
        index=np.full((number, k), -1, dtype=np.int64),
        scores=np.zeros((number, k), dtype=np.float32),
        above=np.zeros(number, dtype=bool),
        pairs_above=0,
    )


def _blocks(number: int) -> Iterator[range]:
    start, size = 0, _FIRST
    while start < number:
        yield range(start, min(start + size, number))
        start, size = start + size, min(2 * size, BLOCK)


def _comparison(embeddings: TextEmbeddings, rows: range) -> Callable[[range], Floats]:
    """From a block of candidates to their similarity with the chunk's studies, `(candidates, studies)`.

    A number does not depend on what is compared at the same time, so that neither do ties.
    """
    if not isinstance(embeddings, torch.Tensor):
        own = np.ascontiguousarray(embeddings[rows.start : rows.stop].toarray().T)  # (D, studies)

        def sparse(block: range) -> Floats:  # each sum over a candidate's own words, in their order
            scores: Floats = embeddings[block.start : block.stop] @ own
            return scores

        return sparse
    studies = embeddings[rows.start : rows.stop].double().T

    def dense(block: range) -> Floats:  # double: the order of summation, which is BLAS's own affair, is rounded away
        scores: Floats = (embeddings[block.start : block.stop].double() @ studies).float().cpu().numpy()
        return scores

    return dense
