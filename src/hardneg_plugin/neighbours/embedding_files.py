"""Dense embeddings that stay on the disk: written part by part, so that an interrupted embedding goes on."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file
from hardneg_plugin.neighbours.embedders import Embedder, TextEmbeddings, distinct

TEXTS = 65_536
"""Texts of a file."""
_SAME = 0.01  # of a component: other batches and devices round otherwise
Track = Callable[[Sequence[int]], Iterable[int]]
"""Iterates over the places at which parts begin, as a progress bar does."""


class EmbeddingFiles:
    """Embeddings `(N, D)` whose rows are read from memory-mapped files when they are asked for.

    Args:
        files: `.npy` files with the embeddings of the distinct texts, of one length but for the last.
        rows: `(N,)`, by study the row of its text.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "a.npy"), np.array([[1, 0], [0, 1]], dtype=np.float32))
    ...     embeddings = EmbeddingFiles([Path(folder, "a.npy")], np.array([1, 0, 1]))
    ...     embeddings.shape, embeddings[1:].tolist()
    ((3, 2), [[1.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, files: Sequence[Path], rows: NDArray[np.int64]) -> None:
        self._files = [open_memmap(file, mode="r") for file in files]
        self._rows = rows
        self.shape: tuple[int, int] = (len(rows), self._files[0].shape[1])

    def __getitem__(self, studies: "slice | NDArray[np.int64]") -> Tensor:
        """Their embeddings `(C, D)`, float32."""
        files, places = np.divmod(self._rows[studies], len(self._files[0]))
        found = np.empty((len(files), self.shape[1]), dtype=np.float32)
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            found[here] = self._files[file][places[here]]
        return torch.from_numpy(found)


def embed_in_files(embedder: Embedder, texts: Sequence[str], folder: Path, *, track: Track = iter) -> TextEmbeddings:
    """Embeddings `(N, D)` of N texts in files of a folder; files that are there already are not made again.

    An embedder that is fitted on all texts, as TF-IDF, is called with all of them; its embeddings stay in memory.

    Args:
        embedder: embeds texts.
        texts: N texts.
        folder: of the files.
        track: iterates over the parts.

    Raises:
        UserError: the files that are there hold other embeddings.
        OSError: a file cannot be written.
    """
    different, rows = distinct(texts)
    if getattr(embedder, "is_fitted_on_all", False):
        return embedder(different)[rows]
    starts = range(0, len(different), TEXTS)
    files = [folder / f"embeddings-{start // TEXTS:05}.npy" for start in starts]
    if files[0].exists():
        _check_same(embedder, different[0], files[0])
    for start in track(starts):
        if (file := files[start // TEXTS]).exists():
            continue
        part = embedder(different[start : start + TEXTS]).float().cpu().numpy()
        with whole_file(file) as opened:
            np.save(opened, part)
    return EmbeddingFiles(files, rows)


def _check_same(embedder: Embedder, text: str, file: Path) -> None:
    """Refuse the embeddings of another model."""
    before, now = open_memmap(file, mode="r")[0], embedder([text])[0].float().cpu().numpy()
    if before.shape != now.shape or not np.allclose(before, now, atol=_SAME, equal_nan=True):
        raise UserError(
            f"{file.parent}: expected embeddings of this model, but the embedder has changed since that mining began. Delete "
            "the folder to mine from the start."
        )
