"""Clinical scores by trained models: RadGraph F1 and RaTEScore, by their packages."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats

T = TypeVar("T")

RADGRAPH_MODELS = ("radgraph", "radgraph-xl", "modern-radgraph-xl", "echograph")
LEVELS = ("simple", "partial", "complete")
"""What RadGraph compares: entities, also whether they have relations, also the relations themselves."""

PROBE = "There is a small left pleural effusion."


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


@dataclass(frozen=True)
class RadGraph:
    """F1 of the entities and relations that RadGraph finds, by the optional package radgraph.

    The scores "radgraph-xl_F1_simple", "..._partial" and "..._complete" (see `LEVELS`) are means over studies; their names start
    with that of the model. A pair with a text without words scores 0.

    Args:
        model: one of `RADGRAPH_MODELS`.
        weights: the folder that holds the unpacked folder of the model; None uses the package's cache, or a download.
        device: a torch device.

    Raises:
        UserError: there is no such model; or, in `check` and when called, the package or the weights are missing or do not run.

    Source: Jain et al. 2021; Delbrouck et al. 2022 (the three levels).
    """

    model: str = "radgraph-xl"
    weights: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.model not in RADGRAPH_MODELS:
            raise UserError(
                f"clinical.radgraph.model: expected one of {', '.join(RADGRAPH_MODELS)}, but got {self.model!r}."
            )

    def check(self) -> None:
        """See `ClinicalMetric`."""
        self([PROBE], [PROBE], [""])

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """See `ClinicalMetric`."""
        if self.weights is not None:
            check_files(Path(self.weights) / self.model, ["config.json", "weights.th"], "clinical.radgraph.weights")
        package = importable("radgraph", "clinical=radgraph")
        scorer = loaded(
            lambda: package.F1RadGraph(
                reward_level="all", model_type=self.model, cuda=_cuda_index(self.device), model_cache_dir=self.weights
            ),
            "radgraph",
            "set clinical.radgraph.weights to the folder that holds them; the BERT that its config.json names must be in the "
            "hub's cache",
        )

        def score(texts: list[str], their_references: list[str]) -> Floats:
            _, by_level, *_ = scorer(hyps=texts, refs=their_references)
            return np.stack([np.array(level, dtype=np.float64) for level in by_level], axis=1)

        rows = _of_pairs_with_words(generated, references, score, len(LEVELS), "radgraph")
        return ScoreCard.of_means(
            {f"{self.model}_F1_{level}": rows[:, i].tolist() for i, level in enumerate(LEVELS)},
        )


@dataclass(frozen=True)
class RaTEScore:
    """RaTEScore by its optional package: similarity of medical entities with synonyms and negation.

    The score "RaTEScore_long" or "RaTEScore_short" is the mean over studies. As in the package, a pair with a text that has words
    but no entity scores 0.5; a pair with a text without words scores 0.

    Args:
        ner: the entity recogniser: a folder, or a name on the hub or in its cache.
        synonyms: the encoder of entities, likewise.
        affinity: the weights of entity types, "long" or "short".
        batch_size: sentences at a time, >= 1.
        device: "cpu" or "cuda".

    Raises:
        UserError: `affinity` or `device` has another value; or, in `check` and when called, the package or the weights are missing
            or do not run.

    Source: Zhao et al. 2024.
    """

    ner: str = "Angelakeke/RaTE-NER-Deberta"
    synonyms: str = "FremyCompany/BioLORD-2023-C"
    affinity: str = "long"
    batch_size: int = 16
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("affinity", self.affinity, ("long", "short")),
            ("device", self.device, ("cpu", "cuda")),
        ):
            if value not in choices:
                raise UserError(f"clinical.ratescore.{name}: expected {' or '.join(choices)}, but got {value!r}.")

    def check(self) -> None:
        """See `ClinicalMetric`."""
        self([PROBE], [PROBE], [""])

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """See `ClinicalMetric`."""
        package = importable("RaTEScore", "clinical=ratescore")
        scorer = loaded(
            lambda: package.RaTEScore(
                bert_model=self.ner,
                eval_model=self.synonyms,
                batch_size=self.batch_size,
                use_gpu=self.device == "cuda",
                affinity_matrix=self.affinity,
            ),
            "RaTEScore",
            f"set clinical.ratescore.ner (now {self.ner!r}) and clinical.ratescore.synonyms (now {self.synonyms!r}) to folders",
        )

        def score(texts: list[str], their_references: list[str]) -> Floats:
            return np.array(scorer.compute_score(texts, their_references), dtype=np.float64)[:, None]

        rows = _of_pairs_with_words(generated, references, score, 1, "RaTEScore")
        return ScoreCard.of_means({f"RaTEScore_{self.affinity}": rows[:, 0].tolist()})


def importable(package: str, choice: str) -> Any:
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
            f"{choice} needs the package {package}, which cannot be imported {_beside()} ({reason(error)}): install what it "
            "needs, or score in a separate environment."
        ) from error


def loaded(make: Callable[[], T], package: str, remedy: str) -> T:
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
            f"The weights of {package} cannot be loaded ({reason(error)}). Without a network, {remedy}."
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


def reason(error: BaseException) -> str:
    """The first line of an error's message, without the full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" .:")


_GONE = (AttributeError, ImportError, TypeError)
"""Raised by calls of removed functions."""


def _does_not_run(package: str, error: Exception) -> UserError:
    return UserError(
        f"The package {package} {_version(package)} does not run {_beside()} ({type(error).__name__}: {reason(error)}): look for "
        "a newer version, or score in a separate environment."
    )


def _beside() -> str:
    return f"beside transformers {_version('transformers')} and numpy {np.__version__}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(of unknown version)"


def _of_pairs_with_words(
    generated: Sequence[str],
    references: Sequence[str],
    score: Callable[[list[str], list[str]], Floats],
    width: int,
    package: str,
) -> Floats:
    """Rows `(N, width)` of scores; a pair with a text without words scores 0, as the packages fail on it or skip it.

    RaTEScore skips texts without a sentence of three characters, and then pairs the next text with the wrong reference.
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
            f"The package {package} failed on these reports ({type(error).__name__}: {reason(error)})."
        ) from error
    if scores.shape != (len(kept), width):
        raise UserError(f"The package {package} gave scores of shape {scores.shape} for {len(kept)} pairs of reports.")
    rows[kept] = scores
    return rows


_WORD = re.compile(r"\w{3}")


def _cuda_index(device: str) -> int:
    """The device index of the package radgraph: -1 is the CPU."""
    kind, _, index = device.partition(":")
    return -1 if kind == "cpu" else int(index or 0)
