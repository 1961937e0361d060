"""Dense vectors by which candidates are found: dense embeddings as they are, sparse ones by their main directions."""

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from hardneg_plugin.files import whole_file
from hardneg_plugin.neighbours.embedders import TextEmbeddings, is_sparse
from hardneg_plugin.neighbours.search import Cosines, Indices

WIDTH = 512
"""Directions kept of sparse embeddings."""
_FITTED_ON = 50_000  # reports


class Sketch:
    """Unit-length float32 vectors `(C, W)` of some studies.

    Args:
        embeddings: `(N, D)`, unit-length.
        directions: `(D, W)`, by which sparse embeddings are projected; None for dense ones, whose W is D.

    >>> import torch
    >>> Sketch(torch.eye(3), None)(np.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, embeddings: TextEmbeddings, directions: Cosines | None) -> None:
        self._embeddings, self._directions = embeddings, directions
        self.width: int = embeddings.shape[1] if directions is None else directions.shape[1]

    def __call__(self, studies: Indices) -> Cosines:
        """The vectors of these studies."""
        rows = self._embeddings[studies]
        if self._directions is None:
            return np.ascontiguousarray(rows.float().cpu().numpy())
        projected: NDArray[np.float32] = rows @ self._directions
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.ascontiguousarray(projected / np.maximum(lengths, np.float32(1e-12)))


def sketch_of(embeddings: TextEmbeddings, studies: Indices, file: Path) -> Sketch:
    """The sketch of these embeddings; directions are read from a file, or fitted and written.

    Args:
        embeddings: `(N, D)`, unit-length.
        studies: to fit the directions on; of many a sample.
        file: `.npy`; of sparse embeddings only.

    Raises:
        OSError: the file cannot be written.
    """
    if not is_sparse(embeddings):
        return Sketch(embeddings, None)
    if not file.exists():
        sample = np.random.default_rng(0).permutation(studies)[:_FITTED_ON]
        with whole_file(file) as opened:
            np.save(opened, _main_directions(embeddings[np.sort(sample)]))
    return Sketch(embeddings, np.array(open_memmap(file, mode="r")))


def _main_directions(rows: TextEmbeddings) -> Cosines:
    from sklearn.decomposition import TruncatedSVD

    width = min(WIDTH, rows.shape[1] - 1, rows.shape[0] - 1)
    if width < 1:  # one term
        return np.ones((rows.shape[1], 1), dtype=np.float32)
    fitted = TruncatedSVD(width, random_state=0).fit(rows)
    return np.ascontiguousarray(fitted.components_.T.astype(np.float32))
