"""The search for near studies among millions: candidates by an index of faiss, their cosines by the embeddings themselves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from hardneg_plugin.errors import require, require_count, require_number
from hardneg_plugin.files import whole_file
from hardneg_plugin.neighbours.candidates import KINDS, CandidateIndex, candidate_index
from hardneg_plugin.neighbours.embedders import TextEmbeddings, is_sparse
from hardneg_plugin.neighbours.entries import Entries
from hardneg_plugin.neighbours.faiss_search import import_faiss
from hardneg_plugin.neighbours.search import (
    ChunkNeighbours,
    Cosines,
    Indices,
    NeighbourRule,
    Neighbours,
    Track,
    exact_neighbours,
)
from hardneg_plugin.neighbours.sketch import Sketch, sketch_of

PART = 16_384
"""Studies whose neighbours are in one file."""
CANDIDATES = 64
"""Entries that are compared at first."""
ROUNDS = 4
"""How often a study without k neighbours gets four times the candidates, before it is compared with all."""
_PAIRS = 16_384  # compared at a time


@dataclass(frozen=True)
class ApproximateSearch:
    """Neighbours among the candidates that an index returns, with exact cosines, by the same rule as the exact search.

    A study whose candidates do not hold k neighbours gets ever more of them, and in the end all studies. So a neighbour can be
    missed for one less near, but no match and no study above the ceiling is returned, and none has fewer than there are. `above`
    and `pairs_above` count what was compared.

    Directions of sparse embeddings, the index and the neighbours of each `PART` studies are files of a folder. Those that are
    there are not made again, so an interrupted search goes on. They must be of the same embeddings and rule.

    Args:
        kind: `ivf` and `ivf_pq`: lists by nearest centroid, of vectors or of codes of a quarter byte a number; `hnsw`: a graph.
        folder: of the files.
        effort: how much is looked at; time and recall grow with it; > 0.
        chunk: studies at a time, >= 1.

    Raises:
        UserError: a value is out of its range, or faiss is not installed.
    """

    kind: str
    folder: Path
    effort: float = 1.0
    chunk: int = 256

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "backend", " or ".join(KINDS), repr(self.kind))
        require_number(self.effort, "effort", "a positive number", above=0)
        require_count(self.chunk, "chunk", "a positive number of studies")
        import_faiss(self.kind)  # before embeddings are computed

    def __call__(self, embeddings: TextEmbeddings, rule: NeighbourRule, *, track: Track = iter) -> Neighbours:
        """See `Search`.

        Raises:
            UserError: there are too few entries for `ivf_pq`.
            OSError: a file cannot be written.
        """
        found, entries = Neighbours.none(embeddings.shape[0], rule.k), Entries.of(rule, embeddings.shape[0])
        if not len(entries):
            return found
        sketch = sketch_of(embeddings, _first(entries), self.folder / "directions.npy")
        index = candidate_index(
            self.kind,
            lambda chosen: sketch(_first(entries)[chosen]),
            len(entries),
            sketch.width,
            self.folder / "candidates.faiss",
        )
        lookup = _Lookup(embeddings, rule, entries, sketch, index, self.effort)
        parts = [
            range(start, min(start + PART, len(entries.studies))) for start in range(0, len(entries.studies), PART)
        ]
        for part in track(parts):
            file, studies = (
                self.folder / f"neighbours-{part.start // PART:05}.safetensors",
                entries.studies[part.start : part.stop],
            )
            if not file.exists():
                own = replace(found, pairs_above=0)
                for start in range(part.start, part.stop, self.chunk):
                    own = lookup.written_into(own, range(start, min(start + self.chunk, part.stop)))
                columns: dict[str, Any] = {"index": own.index, "scores": own.scores, "above": own.above}
                content = {name: rows[studies] for name, rows in columns.items()}
                with whole_file(file) as opened:
                    opened.write(save({**content, "pairs": np.array([own.pairs_above])}))
            read = load_file(file)
            found.index[studies], found.scores[studies] = read["index"], read["scores"]
            found.above[studies] = read["above"]
            found = replace(found, pairs_above=found.pairs_above + int(read["pairs"][0]))
        return found


@dataclass(frozen=True)
class _Lookup:
    embeddings: TextEmbeddings
    rule: NeighbourRule
    entries: Entries
    sketch: Sketch
    index: CandidateIndex
    effort: float

    def written_into(self, found: Neighbours, places: range) -> Neighbours:
        """The neighbours found so far, with those of the studies at some places of the entries filled in."""
        studies, entry = self.entries.studies[places.start : places.stop], self.entries.entry_of(places)
        for turn in range(ROUNDS + 1):
            if turn == ROUNDS or CANDIDATES * 4**turn >= 4 * len(self.entries):
                return exact_neighbours(self.embeddings, studies, self.rule).written_into(found)
            kept = self._kept(studies, entry, 4**turn)
            found = kept.written_into(found)
            again = ~np.isfinite(kept.least)
            if not again.any():
                return found
            found = replace(found, pairs_above=found.pairs_above - int(kept.pairs_above[again].sum()))
            studies, entry = studies[again], entry[again]
        raise AssertionError

    def _kept(self, studies: Indices, entry: Indices, times: int) -> ChunkNeighbours:
        """The neighbours among the candidates.

        Args:
            studies: `(C,)`.
            entry: `(C,)`, theirs.
            times: how much more than at first is looked at.
        """
        queries, query = np.unique(entry, return_inverse=True)
        near = np.concatenate(list(self._near(queries, times)))[query]  # (C, candidates)
        rows, columns = np.nonzero((near >= 0) & (near != entry[:, None]))
        candidates, pair = self.entries.members(near[rows, columns], (self.rule.k + 8) * times)
        kept = ChunkNeighbours(studies, self.rule)
        kept.add(rows[pair], candidates, _cosines(self.embeddings, studies[rows[pair]], candidates))
        return kept

    def _near(self, queries: Indices, times: int) -> Iterator[Indices]:
        """The candidates of each query, those with the same closed entries at a time."""
        count = min(round(max(CANDIDATES, 4 * self.rule.k) * max(self.effort, 1)) * times, len(self.entries))
        closed = self.entries.closed[queries]
        begins = np.flatnonzero(np.any(np.diff(closed, axis=0, prepend=-1), axis=1))
        for start, stop in zip(begins, [*begins[1:], len(queries)], strict=True):
            vectors = self.sketch(_first(self.entries)[queries[start:stop]])
            yield self.index(vectors, count, self.effort * times, range(*closed[start].tolist()))


def _first(entries: Entries) -> Indices:
    """Of each entry the study that stands for it."""
    first: Indices = entries.studies[entries.starts[:-1]]
    return first


def _cosines(embeddings: TextEmbeddings, studies: Indices, candidates: Indices) -> Cosines:
    """The cosines of P pairs, `(P,)`."""
    found = np.empty(len(studies), dtype=np.float32)
    for start in range(0, len(studies), _PAIRS):
        block = slice(start, start + _PAIRS)
        of_studies, of_candidates = embeddings[studies[block]], embeddings[candidates[block]]
        if is_sparse(embeddings):
            found[block] = of_candidates.multiply(of_studies) @ np.ones(embeddings.shape[1], dtype=np.float32)
        else:
            found[block] = (of_studies.double() * of_candidates.double()).sum(dim=1).float().cpu().numpy()
    return found
