"""Unit-length embeddings of report texts, by which nearest reports are found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from hardneg_plugin.errors import UserError, first_line, require_count
from hardneg_plugin.files import read_json
from hardneg_plugin.functional.unit_length import has_direction

TextEmbeddings = Any
"""Unit-length rows `(N, D)` in float32: a tensor, `EmbeddingFiles`, or a scipy CSR matrix."""
_ROWS = 65_536  # looked at at a time


def is_sparse(embeddings: TextEmbeddings) -> bool:
    """Whether they are a scipy CSR matrix.

    >>> import torch
    >>> is_sparse(torch.ones(2, 3))
    False
    """
    return hasattr(embeddings, "tocsr")


class Embedder(Protocol):
    """Embeds texts."""

    def __call__(self, texts: Sequence[str]) -> TextEmbeddings:
        """Unit-length rows `(N, D)` of N texts; a row is zero where a text holds nothing to embed."""


def embed(embedder: Embedder, texts: Sequence[str]) -> TextEmbeddings:
    """Embeddings `(N, D)` of N texts; equal texts are embedded once, and so are equally near to any other.

    Args:
        embedder: embeds texts.
        texts: N texts.
    """
    different, rows = distinct(texts)
    return embedder(different)[rows]


def distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The different ones of N texts, and `(N,)` which of them each is.

    >>> distinct(["b", "a", "b"])
    (['b', 'a'], array([0, 1, 0]))
    """
    position: dict[str, int] = {}
    rows = np.fromiter((position.setdefault(text, len(position)) for text in texts), np.int64, len(texts))
    return list(position), rows


def without_direction(embeddings: TextEmbeddings) -> NDArray[np.bool_]:
    """Which of N rows say nothing: they are not finite, or of length zero, as of a text that holds nothing to embed.

    >>> import torch
    >>> without_direction(torch.tensor([[1.0, 0.0], [0.0, 0.0], [torch.nan, 1.0]])).tolist()
    [False, True, True]
    """
    if not is_sparse(embeddings):
        blocks = (embeddings[start : start + _ROWS] for start in range(0, embeddings.shape[0], _ROWS))
        return np.concatenate([~has_direction(block).cpu().numpy() for block in blocks])
    squares: NDArray[np.float32] = np.asarray(embeddings.multiply(embeddings).sum(axis=1)).reshape(-1)
    return ~((squares > 0) & np.isfinite(squares))


@dataclass(frozen=True)
class TfidfEmbedder:
    """Term frequency times inverse document frequency by scikit-learn: sparse, and fitted on the texts themselves.

    Words are runs of letters and digits in lower case, of any length: sides, grades and millimetres tell reports apart. Stop words
    are kept, as "no" would be among them. Term frequencies are logarithmic.

    Args:
        ngrams: the longest sequence of words that counts as a term, >= 1.
        min_count: terms in fewer texts than this are left out, >= 1.

    Raises:
        UserError: a number is out of its range; or, when called, no term is left.

    >>> rows = TfidfEmbedder()(["no effusion", "left effusion", "no effusion"])
    >>> rows.shape, round(float((rows[0] @ rows[2].T)[0, 0]), 4)
    ((3, 3), 1.0)
    """

    ngrams: int = 1
    min_count: int = 1
    is_fitted_on_all: ClassVar[bool] = True
    """Texts cannot be embedded part by part."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_count(value, f"embedder.{name}")

    def __call__(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `Embedder`."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

        vectorizer = TfidfVectorizer(
            token_pattern=r"(?u)[^\W_]+",
            ngram_range=(1, self.ngrams),
            min_df=self.min_count,
            sublinear_tf=True,
            dtype=np.float32,
        )
        try:
            rows = vectorizer.fit_transform(texts).tocsr()
        except ValueError as error:  # an empty vocabulary
            raise UserError(
                f"embedder: expected terms in at least {self.min_count} of {len(texts)} reports, but there are none ({error}). "
                "Lower embedder.min_count."
            ) from error
        rows.sort_indices()
        return rows


@dataclass(frozen=True)
class SentenceTransformerEmbedder:
    """A model of the sentence-transformers package, an optional dependency.

    Args:
        name_or_path: a name on the hub or in its local cache, or a folder.
        batch_size: texts at a time.
        device: as torch takes it.

    Raises:
        UserError: when called, the package is not installed, or the model cannot be loaded.
    """

    name_or_path: str
    batch_size: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_count(self.batch_size, "embedder.batch_size")

    def __call__(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `Embedder`."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                f"embedder=sentence_transformers needs a package that is not installed ({error}): "
                "pip install 'hardneg-plugin[sentence-transformers]', or set embedder=tfidf."
            ) from error
        _check_modules(Path(self.name_or_path))
        try:
            # no weights that would have to be unpickled, and no code that comes with a model
            model = SentenceTransformer(
                self.name_or_path,
                device=self.device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"embedder.name_or_path: expected a sentence-transformers model, but {self.name_or_path!r} could not be loaded "
                f"({first_line(error)}). Give its folder, or a name that is on the hub or in its local cache."
            ) from error
        rows = model.encode(list(texts), batch_size=self.batch_size, convert_to_tensor=True)
        return F.normalize(rows.float().cpu(), dim=-1)


def _check_modules(folder: Path) -> None:
    """Refuse a folder whose model names other classes than the package's: it would import them from the folder's code."""
    file = folder / "modules.json"
    if not file.is_file():
        return
    modules = read_json(file, "modules")
    listed = modules if isinstance(modules, list) else []
    types = [str(module.get("type")) for module in listed if isinstance(module, dict)]
    if not types or not all(name.startswith("sentence_transformers.") for name in types):
        raise UserError(
            f"{file}: expected only classes of sentence_transformers, but got {', '.join(types) or 'none'}: code that comes with "
            "a model is not run."
        )
