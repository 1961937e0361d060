"""The search by faiss, for dense embeddings of many studies; an optional dependency."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours.embedders import TextEmbeddings, is_sparse
from hardneg_plugin.neighbours.search import ChunkedSearch, ChunkNeighbours, NeighbourRule, Neighbours, Track


@dataclass(frozen=True)
class FaissSearch(ChunkedSearch):
    """Exact neighbours by a flat faiss index, which is asked for ever more candidates until k of them count.

    The order of equally near studies is up to faiss where it does not return all of them.

    Args:
        chunk: studies at a time, >= 1.

    Raises:
        UserError: the chunk is out of its range, or faiss is not installed.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        import_faiss("faiss")  # before embeddings are computed

    def __call__(self, embeddings: TextEmbeddings, rule: NeighbourRule, *, track: Track = iter) -> Neighbours:
        """See `Search`.

        Raises:
            UserError: the embeddings are sparse.
        """
        faiss = import_faiss("faiss")
        if is_sparse(embeddings):
            raise UserError(
                "backend: faiss takes dense embeddings, but those of embedder=tfidf are sparse. Set backend=torch, ivf or hnsw, "
                "or another embedder."
            )
        vectors = np.ascontiguousarray(embeddings.float().cpu().numpy())
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        found = Neighbours.none(len(vectors), rule.k)
        for rows in track(self.chunks(len(vectors))):
            found = _kept(index, vectors, rows, rule).written_into(found)
        return found


def _kept(index: Any, vectors: Any, rows: range, rule: NeighbourRule) -> ChunkNeighbours:
    fetched = min(rule.k + 32, len(vectors))
    while True:
        scores, candidates = index.search(vectors[rows.start : rows.stop], fetched)
        kept = ChunkNeighbours(np.arange(rows.start, rows.stop), rule)
        kept.add(np.repeat(np.arange(len(rows)), fetched), candidates.reshape(-1), scores.reshape(-1))
        if np.isfinite(kept.least).all() or fetched == len(vectors):
            return kept
        fetched = min(4 * fetched, len(vectors))


def import_faiss(backend: str) -> Any:
    """The package.

    Args:
        backend: the setting that asks for it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"backend: {backend} needs a package that is not installed ({error}): pip install 'hardneg-plugin[faiss]', or set "
            "backend=torch."
        ) from error
    return faiss
