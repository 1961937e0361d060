"""Approximate indexes of faiss: which entries may be near a query, without a comparison with all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file
from hardneg_plugin.neighbours.faiss_search import import_faiss
from hardneg_plugin.neighbours.search import Cosines, Indices

KINDS = ("ivf", "ivf_pq", "hnsw")
CODED = 10_000
"""Entries from which on codes of a product quantisation can be learned."""
_PER_LIST = 64  # vectors that each centroid is trained on
_LINKS, _BUILT_WITH = 32, 80  # of a graph
_ADDED = 65_536  # vectors at a time

Vectors = Callable[[Indices], Cosines]
"""The unit-length vectors `(C, W)` of some entries."""


class CandidateIndex(Protocol):
    """Finds candidates."""

    def __call__(self, queries: Cosines, count: int, effort: float, closed: range) -> Indices:
        """Entries near each query, `(Q, count)`, the nearest first; -1 where there are fewer.

        Args:
            queries: `(Q, W)`.
            count: how many to find for each.
            effort: how much is looked at; 1 by default.
            closed: entries that are none.
        """


class InvertedLists:
    """Entries in lists by their nearest centroid. The nearest lists of a query are looked through that have any entry to find.

    Args:
        index: of faiss, an IVF.
    """

    def __init__(self, index: Any) -> None:
        faiss = import_faiss("ivf")
        self._index = index
        self._list_of = np.empty(index.ntotal, dtype=np.int32)
        """By entry."""
        for number in range(index.nlist):
            if size := index.invlists.list_size(number):
                self._list_of[faiss.rev_swig_ptr(index.invlists.get_ids(number), size)] = number
        self._sizes = np.bincount(self._list_of, minlength=index.nlist)
        self._open: tuple[range, dict[str, Any]] = range(0), {}

    def __call__(self, queries: Cosines, count: int, effort: float, closed: range) -> Indices:
        """See `CandidateIndex`."""
        faiss, lists = import_faiss("ivf"), self._index.nlist
        if closed != self._open[0]:  # queries come with the same one many times in a row
            self._open = closed, self._only_open(closed)
        looked_at = min(lists, max(1, round(2 * effort * lists**0.5)))
        parameters = faiss.SearchParametersIVF(nprobe=looked_at, **self._open[1])
        return np.asarray(self._index.search(queries, count, params=parameters)[1])

    def _only_open(self, closed: range) -> dict[str, Any]:
        """Parameters by which neither closed entries are found, nor lists looked at that hold nothing else."""
        faiss = import_faiss("ivf")
        if not closed:
            return {}
        inside = np.bincount(self._list_of[closed.start : closed.stop], minlength=len(self._sizes))
        lists = faiss.IDSelectorBatch(np.flatnonzero(self._sizes > inside))
        rest = faiss.IDSelectorNot(faiss.IDSelectorRange(closed.start, closed.stop))
        return {"sel": rest, "quantizer_params": faiss.SearchParameters(sel=lists)}


@dataclass(frozen=True)
class Graph:
    """Entries linked to near ones, from one to the next of which a query walks.

    Args:
        index: of faiss, an HNSW.
    """

    index: Any

    def __call__(self, queries: Cosines, count: int, effort: float, closed: range) -> Indices:
        """See `CandidateIndex`."""
        faiss = import_faiss("hnsw")
        settings: dict[str, Any] = {"efSearch": max(count, round(64 * effort))}
        if len(closed):
            settings["sel"] = faiss.IDSelectorNot(faiss.IDSelectorRange(closed.start, closed.stop))
        _, found = self.index.search(queries, count, params=faiss.SearchParametersHNSW(**settings))
        return np.asarray(found)


def candidate_index(kind: str, vectors: Vectors, number: int, width: int, file: Path) -> CandidateIndex:
    """The index of U entries: read from a file, or built and written.

    Args:
        kind: of `KINDS`.
        vectors: of the entries.
        number: U.
        width: W.
        file: of the index.

    Raises:
        UserError: faiss is not installed, or there are too few entries for `ivf_pq`.
        OSError: the file cannot be written.
    """
    faiss = import_faiss(kind)
    if not file.exists():
        index = _built(faiss, kind, vectors, number, width)
        with whole_file(file) as opened:
            faiss.write_index(index, faiss.PyCallbackIOWriter(opened.write))
    index = faiss.read_index(str(file))
    return Graph(index) if kind == "hnsw" else InvertedLists(index)


def number_of_lists(number: int) -> int:
    """The lists of U entries: about twice the root, but enough entries in each to find its centroid.

    >>> [number_of_lists(number) for number in (10, 200_000, 10_000_000)]
    [1, 1024, 8192]
    """
    by_root = 2 ** round(np.log2(2 * max(number, 1) ** 0.5))
    return int(max(1, min(by_root, number // _PER_LIST)))


def bytes_of_code(width: int) -> int:
    """Bytes of a vector in `ivf_pq`: one for four numbers, or the next number of parts that W can be split into.

    >>> bytes_of_code(256), bytes_of_code(10), bytes_of_code(7)
    (64, 2, 1)
    """
    return max(parts for parts in range(1, max(1, width // 4) + 1) if width % parts == 0)


def _built(faiss: Any, kind: str, vectors: Vectors, number: int, width: int) -> Any:
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILT_WITH
    else:
        if kind == "ivf_pq" and number < CODED:
            raise UserError(
                f"backend: expected at least {CODED:,} different reports for ivf_pq to learn codes from, but got {number:,}. Set "
                "backend=ivf."
            )
        lists = number_of_lists(number)
        stored = f"PQ{bytes_of_code(width)}" if kind == "ivf_pq" else "Flat"
        index = faiss.index_factory(width, f"IVF{lists},{stored}", faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = _PER_LIST
        if kind == "ivf_pq":
            index.pq.cp.max_points_per_centroid, index.pq.cp.niter = _PER_LIST, 10
        sample = np.random.default_rng(0).permutation(number)[: max(_PER_LIST * lists, CODED)]
        index.train(vectors(np.sort(sample)))
    for start in range(0, number, _ADDED):
        index.add(vectors(np.arange(start, min(start + _ADDED, number))))
    return index
