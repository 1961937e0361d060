"""The clinical metrics' protocol, and running the packages of trained models with errors that say what to do."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats

PROBE = "There is a small left pleural effusion."
"""A report by which a metric checks that it runs."""


class ClinicalMetric(Protocol):
    """Scores reports by what they say about the patient. Slow: computed once, at the end, by one process."""

    def check(self) -> None:
        """Check that the packages and weights are available and run, before long work.

        Raises:
            UserError: they do not; says what is missing and what to do.
        """

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """Score N >= 1 studies.

        Args:
            generated: N texts.
            references: N texts.
            ids: N study ids.

        Raises:
            UserError: as `check`.
        """


def load_scorer(choice: str, package: str, make: Callable[[Any], Any], remedy: str) -> Any:
    """Import an optional package and build its scorer.

    Args:
        choice: the setting that needs it, for messages.
        package: its name.
        make: builds the scorer from the imported package and its weights.
        remedy: what to do without a network, for the message.

    Raises:
        UserError: the package is not installed, cannot be imported or does not run, or the weights are missing.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{choice} needs the package {package}, which is not installed: pip install {package}.")
    try:
        module = importlib.import_module(package)
    except Exception as error:  # also a ValueError, of parts compiled for another numpy
        raise UserError(
            f"{choice} needs the package {package}, which cannot be imported {_beside()} ({first_line(error)}): install what it "
            "needs, or score in a separate environment."
        ) from error
    try:
        return make(module)
    except Exception as error:
        otherwise = f"The weights of {package} cannot be loaded ({first_line(error)}). Without a network, {remedy}."
        raise _error_of(package, error, otherwise) from error


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


def _error_of(package: str, error: Exception, otherwise: str) -> UserError:
    """What to raise for an error of a package: one of a removed function, or else the message `otherwise`."""
    if not isinstance(error, AttributeError | ImportError | TypeError):
        return UserError(otherwise)
    try:
        number = version(package)
    except PackageNotFoundError:
        number = "(of unknown version)"
    return UserError(
        f"The package {package} {number} does not run {_beside()} ({type(error).__name__}: {first_line(error)}): look "
        "for a newer version, or score in a separate environment."
    )


def _beside() -> str:
    return f"beside transformers {version('transformers')} and numpy {np.__version__}"


def score_pairs_with_words(
    generated: Sequence[str],
    references: Sequence[str],
    score: Callable[[list[str], list[str]], Floats],
    names: Sequence[str],
    package: str,
    without_words: float = 0.0,
) -> ScoreCard:
    """Means over N pairs of the scores by a package, which are not asked about a text without words: they fail on it or skip it.

    RaTEScore skips texts without a sentence of three characters, and then pairs the next text with the wrong reference.

    Args:
        generated: N texts.
        references: N texts.
        score: gives the rows `(M, S)` of M pairs; NaN where a pair could not be scored, and is left out.
        names: of the S scores.
        package: name of the package, for messages.
        without_words: what a pair with a text without words scores.

    Raises:
        UserError: the package fails, or gives scores of another shape.
    """
    kept = [i for i, pair in enumerate(zip(generated, references, strict=True)) if all(map(_WORD.search, pair))]
    rows = np.full((len(generated), len(names)), without_words)
    try:
        scores = score([generated[i] for i in kept], [references[i] for i in kept]) if kept else rows[kept]
    except Exception as error:
        otherwise = f"The package {package} failed on these reports ({type(error).__name__}: {first_line(error)})."
        raise _error_of(package, error, otherwise) from error
    if scores.shape != (len(kept), len(names)):
        raise UserError(f"The package {package} gave scores of shape {scores.shape} for {len(kept)} pairs of reports.")
    rows[kept] = scores
    return ScoreCard.of_means(dict(zip(names, rows.T.tolist(), strict=True)))


_WORD = re.compile(r"\w{3}")
