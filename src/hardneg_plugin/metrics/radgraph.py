"""RadGraph F1, by the RadGraph that the package radeval brings: the package radgraph does not run with transformers 5."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.clinical import PROBE, check_files, load_scorer, score_pairs_with_words
from hardneg_plugin.metrics.radeval import radeval_module
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats

RADGRAPH_MODELS = ("radgraph", "radgraph-xl", "modern-radgraph-xl", "echograph")
LEVELS = ("simple", "partial", "complete")
"""What RadGraph compares: entities, also whether they have relations, also the relations themselves."""


@dataclass(frozen=True)
class RadGraph:
    """F1 of the entities and relations that RadGraph finds, by the optional package radeval.

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
        scorer = load_scorer(
            "clinical=radgraph",
            "radeval",
            lambda _: radeval_module("RadEval.metrics.radgraph").F1RadGraph(
                reward_level="all", model_type=self.model, cuda=_cuda_index(self.device), model_cache_dir=self.weights
            ),
            "set clinical.radgraph.weights to the folder that holds them; the BERT that its config.json names must be in the "
            "hub's cache",
        )

        def score(texts: list[str], their_references: list[str]) -> Floats:
            _, by_level, *_ = scorer(hyps=texts, refs=their_references)
            return np.stack([np.array(level, dtype=np.float64) for level in by_level], axis=1)

        names = [f"{self.model}_F1_{level}" for level in LEVELS]
        return score_pairs_with_words(generated, references, score, names, "radeval")


def _cuda_index(device: str) -> int:
    """The device index of RadGraph: -1 is the CPU."""
    kind, _, index = device.partition(":")
    return -1 if kind == "cpu" else int(index or 0)
