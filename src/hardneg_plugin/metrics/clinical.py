"""The clinical metrics' protocol, and running the packages of trained models with errors that say what to do."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats

T = TypeVar("T")

PROBE = "There is a small left pleural effusion."
"""A report by which a metric checks that it runs."""


class ClinicalMetric(Protocol):
    """Scores reports by what they say about the patient. Slow: computed once, at the end, by one process."""

    def check(self) -> None:
        """Check that the packages and weights are available and run, before long work.

        Raises:
            UserError: they do not; says what is missing and what to do.
        """
        ...

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """Score N >= 1 studies.

        Args:
            generated: N texts.
            references: N texts.
            ids: N study ids.

        Raises:
            UserError: as `check`.
        """
        ...


def import_optional(package: str, choice: str) -> Any:
    """Import an optional package.

    Args:
        package: its name.
        choice: the override that needs it, for the message.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{choice} needs the package {package}, which is not installed: pip install {package}.")
    try:
        return importlib.import_module(package)
    except Exception as error:  # also a ValueError, of parts compiled for another numpy
        raise UserError(
            f"{choice} needs the package {package}, which cannot be imported {_beside()} ({first_line(error)}): install what it "
            "needs, or score in a separate environment."
        ) from error


def load_scorer(make: Callable[[], T], package: str, remedy: str) -> T:
    """Build a scorer of a package from its weights.

    Args:
        make: builds it.
        package: the name of the package.
        remedy: what to do without a network, for the message.

    Raises:
        UserError: `make` raises; the message says whether the package does not run or the weights are missing.
    """
    try:
        return make()
    except _GONE as error:
        raise _does_not_run(package, error) from error
    except Exception as error:
        raise UserError(
            f"The weights of {package} cannot be loaded ({first_line(error)}). Without a network, {remedy}."
        ) from error


def check_files(folder: Path, names: Sequence[str], key: str) -> None:
    """Raise a UserError if a folder of weights lacks a file.

    Args:
        folder: the folder.
        names: of the files.
        key: the config key of the folder, for the message.
    """
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{key}: expected the file {folder / name}, but there is none.")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" .:")


_GONE = (AttributeError, ImportError, TypeError)
"""Raised by calls of removed functions."""


def _does_not_run(package: str, error: Exception) -> UserError:
    return UserError(
        f"The package {package} {_version(package)} does not run {_beside()} ({type(error).__name__}: {first_line(error)}): look "
        "for a newer version, or score in a separate environment."
    )


def _beside() -> str:
    return f"beside transformers {_version('transformers')} and numpy {np.__version__}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(of unknown version)"


def score_pairs_with_words(
    generated: Sequence[str],
    references: Sequence[str],
    score: Callable[[list[str], list[str]], Floats],
    width: int,
    package: str,
) -> Floats:
    """Score pairs by a package; a pair with a text without words scores 0, as packages fail on it or skip it.

    RaTEScore skips texts without a sentence of three characters, and then pairs the next text with the wrong reference.

    Args:
        generated: N texts.
        references: N texts.
        score: gives the rows `(M, width)` of M pairs.
        width: number of scores of a pair.
        package: name of the package, for messages.

    Returns:
        `(N, width)`.

    Raises:
        UserError: the package fails, or gives scores of another shape.
    """
    has_words = [bool(_WORD.search(a) and _WORD.search(b)) for a, b in zip(generated, references, strict=True)]
    rows = np.zeros((len(has_words), width))
    kept = [i for i, is_kept in enumerate(has_words) if is_kept]
    if not kept:
        return rows
    try:
        scores = score([generated[i] for i in kept], [references[i] for i in kept])
    except _GONE as error:
        raise _does_not_run(package, error) from error
    except Exception as error:
        raise UserError(
            f"The package {package} failed on these reports ({type(error).__name__}: {first_line(error)})."
        ) from error
    if scores.shape != (len(kept), width):
        raise UserError(f"The package {package} gave scores of shape {scores.shape} for {len(kept)} pairs of reports.")
    rows[kept] = scores
    return rows


_WORD = re.compile(r"\w{3}")
