"""Scores of the package radeval: RadCliQ, GREEN, SRR-BERT and CRIMSON."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.clinical import PROBE, load_scorer, score_pairs_with_words
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats

RADEVAL_SCORES = {
    "radcliq": {"radcliq_v1": "RadCliQ-v1"},
    "green": {"green": "GREEN"},
    "srrbert": {f"srrbert_weighted_{kind.lower()}": f"SRR-BERT_{kind}" for kind in ("F1", "precision", "recall")},
    "crimson": {"crimson": "CRIMSON"},
}
"""By metric of radeval, our names of the scores by those of the package."""
REMEDIES = {
    "radcliq": "have StanfordAIMI/RRG_scorers, bert-base-uncased and distilroberta-base in the hub's cache",
    "green": "have StanfordAIMI/GREEN-radllama2-7b in the hub's cache",
    "srrbert": "have StanfordAIMI/SRR-BERT-Leaves-with-Statuses and microsoft/BiomedVLP-CXR-BERT-general in the hub's cache",
    "crimson": "set clinical.crimson.model to a folder, or have rajpurkarlab/medgemma-4b-it-crimson in the hub's cache",
}
"""What to do without a network, by the models that radeval 2.2.1 loads."""
NOTHING_ALIKE = {"radcliq": 2.45014}
"""What a pair with a text without words scores, where that is not 0: the value of two texts whose BLEU, BERTScore, RadGraph F1 and
CheXbert similarity are all 0. Equal texts score -1.44."""


@dataclass(frozen=True)
class RadEvalScore:
    """A metric of the optional package radeval; the scores are means over studies.

    Models are on a GPU if there is one, and come from the hub or its cache. No text leaves the machine: CRIMSON is judged by a
    model that runs here, never by a service.

    Args:
        metric: one of `RADEVAL_SCORES`.
        model: of CRIMSON, the judge: a folder, or a name on the hub; None takes the published one.
        batch_size: of CRIMSON, pairs at a time, >= 1.
        trust_remote_code: of GREEN, which is refused without: radeval loads its model so that the model's files may bring code.

    Raises:
        UserError: there is no such metric, or GREEN is not trusted; or, in `check` and when called, the package or the weights are
            missing or do not run.

    Source: Yu et al. 2023 (RadCliQ); Ostmeier et al. 2024 (GREEN); Delbrouck et al. 2025 (SRR-BERT); Baharoon et al. 2026
    (CRIMSON).

    >>> RadEvalScore("radcliq").names
    ['RadCliQ-v1']
    """

    metric: str
    model: str | None = None
    batch_size: int = 1
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.metric not in RADEVAL_SCORES:
            raise UserError(f"metric: expected one of {', '.join(RADEVAL_SCORES)}, but got {self.metric!r}.")
        if self.metric == "green" and not self.trust_remote_code:
            raise UserError(
                "clinical=green loads StanfordAIMI/GREEN-radllama2-7b in a way that runs code of its repository on the hub. If you "
                "trust that, set clinical.green.trust_remote_code=true."
            )

    @property
    def names(self) -> list[str]:
        """Of the scores."""
        return list(RADEVAL_SCORES[self.metric].values())

    def check(self) -> None:
        """See `ClinicalMetric`."""
        self([PROBE], [PROBE], [""])

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """See `ClinicalMetric`."""
        options: dict[str, Any] = {}
        if self.metric == "crimson":
            options = {"provider": "hf", "model_name": self.model, "batch_size": self.batch_size}
        with warnings.catch_warnings():  # radeval switches all warnings off
            scorer = load_scorer(
                f"clinical={self.metric}",
                "radeval",
                lambda _: radeval_module("radeval").RadEval(
                    metrics={self.metric: options}, per_sample=True, show_progress=False
                ),
                REMEDIES[self.metric],
            )

            def score(texts: list[str], their_references: list[str]) -> Floats:
                by_key = scorer(refs=their_references, hyps=texts)
                return np.stack(
                    [np.array(by_key[key], dtype=np.float64) for key in RADEVAL_SCORES[self.metric]], axis=1
                )

            return score_pairs_with_words(
                generated, references, score, self.names, "radeval", without_words=NOTHING_ALIKE.get(self.metric, 0.0)
            )


def radeval_module(name: str) -> Any:
    """A module of radeval, such as "radeval.metrics.radgraph".

    Release 2.2.1 calls itself RadEval in its own imports, which a file system that tells upper from lower case does not find
    (https://github.com/jbdel/RadEval/issues/27). So it gets that name here.
    """
    sys.modules.setdefault("RadEval", importlib.import_module("radeval"))
    return importlib.import_module(name)
