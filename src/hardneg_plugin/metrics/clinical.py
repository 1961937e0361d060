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
"""What must agree in RadGraph: entities; and whether they have relations; and the relations."""

PROBE = "There is a small left pleural effusion."


class ClinicalMetric(Protocol):
    """Scores reports by what they say of the patient; slow, so that it is computed once, at the end, by one process."""

    def check(self) -> None:
        """Raise now what would keep `__call__` from scoring: packages, weights, and whether they run here.

        Raises:
            UserError: what is missing, and what to do.
        """
        ...

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """The scores of N >= 1 studies.

        Raises:
            UserError: as `check`.
        """
        ...


@dataclass(frozen=True)
class RadGraph:
    """F1 of the entities and relations that RadGraph reads in the reports, by the package radgraph; an extra.

    Scores are "radgraph-xl_F1_simple", "..._partial" and "..._complete" (see `LEVELS`), means over studies, with the model in the
    name. A pair with a text without words scores 0.

    Args:
        model: one of `RADGRAPH_MODELS`.
        weights: the folder that holds the unpacked folder of the model; None: the package's own cache, or a download.
        device: as torch takes it.

    Raises:
        UserError: no such model; or, in `check` and when called, the package or the weights are not to be had or do not run.

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
            "give the folder that holds them by clinical.radgraph.weights, and have the BERT that its config.json names in the "
            "hub's cache",
        )

        def score(texts: list[str], others: list[str]) -> Floats:
            _, by_level, *_ = scorer(hyps=texts, refs=others)
            return np.stack([np.array(level, dtype=np.float64) for level in by_level], axis=1)

        rows = _of_pairs_with_words(generated, references, score, len(LEVELS), "radgraph")
        return ScoreCard.of_means(
            {f"{self.model}_F1_{level}": rows[:, i].tolist() for i, level in enumerate(LEVELS)},
        )


@dataclass(frozen=True)
class RaTEScore:
    """RaTEScore by its package: similarity of medical entities with synonyms and negation; an extra.

    The score is "RaTEScore_long" or "RaTEScore_short", the mean over studies. It is 0.5 where one text of a pair has words but no
    entity, as the package has it, and 0 where one has no words.

    Args:
        ner: the entity recogniser, a folder or a name on the hub or in its cache.
        synonyms: the encoder of entities, likewise.
        affinity: "long" or "short", which weights of entity types.
        batch_size: sentences at a time.
        device: "cpu" or "cuda".

    Raises:
        UserError: a value is not one of these; or, in `check` and when called, the package or the weights are not to be had or do
            not run.

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
            f"give folders by clinical.ratescore.ner (now {self.ner!r}) and clinical.ratescore.synonyms (now {self.synonyms!r})",
        )

        def score(texts: list[str], others: list[str]) -> Floats:
            return np.array(scorer.compute_score(texts, others), dtype=np.float64)[:, None]

        rows = _of_pairs_with_words(generated, references, score, 1, "RaTEScore")
        return ScoreCard.of_means({f"RaTEScore_{self.affinity}": rows[:, 0].tolist()})


def importable(package: str, choice: str) -> Any:
    """The module of a package that is an extra.

    Raises:
        UserError: it is not installed, or raises whatever it may when imported.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{choice} needs the package {package}, which is not installed: pip install {package}.")
    try:
        return importlib.import_module(package)
    except Exception as error:  # a missing dependency, or compiled parts for another numpy, which is a ValueError
        raise UserError(
            f"{choice} needs the package {package}, which cannot be imported {_beside()} ({reason(error)}): install what it "
            "needs, or score in an environment of its own."
        ) from error


def loaded(make: Callable[[], T], package: str, remedy: str) -> T:
    """What `make` builds out of a package and its weights.

    Raises:
        UserError: it raises whatever it may; an interface that is gone is told apart from weights that are not there.
    """
    try:
        return make()
    except _GONE as error:
        raise _does_not_run(package, error) from error
    except Exception as error:
        raise UserError(
            f"The weights of {package} could not be loaded ({reason(error)}). Without a network, {remedy}."
        ) from error


def check_files(folder: Path, names: Sequence[str], key: str) -> None:
    """Raise a UserError where a folder of weights lacks a file."""
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{key}: expected the file {folder / name}, but there is none.")


def reason(error: BaseException) -> str:
    """The first line of what an error says, without the full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" .:")


_GONE = (AttributeError, ImportError, TypeError)
"""What calls of removed functions raise."""


def _does_not_run(package: str, error: Exception) -> UserError:
    return UserError(
        f"The package {package} {_version(package)} does not run {_beside()} ({type(error).__name__}: {reason(error)}): look for "
        "a newer one, or score in an environment of its own."
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
    """Rows `(N, width)` of scores; 0 for a pair of which one text has no word, which packages fail on or pass over.

    RaTEScore leaves out texts without a sentence of three characters, and pairs what follows with another study's reference.
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
    """As the package radgraph counts: -1 is the CPU."""
    kind, _, index = device.partition(":")
    return -1 if kind == "cpu" else int(index or 0)
