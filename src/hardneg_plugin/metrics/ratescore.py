"""RaTEScore, by its package."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.clinical import PROBE, load_scorer, score_pairs_with_words
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats


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
        for name, choices in (("affinity", ("long", "short")), ("device", ("cpu", "cuda"))):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"clinical.ratescore.{name}: expected {' or '.join(choices)}, but got {value!r}.")

    def check(self) -> None:
        """See `ClinicalMetric`."""
        self([PROBE], [PROBE], [""])

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """See `ClinicalMetric`."""
        scorer = load_scorer(
            "clinical=ratescore",
            "RaTEScore",
            lambda package: package.RaTEScore(
                bert_model=self.ner,
                eval_model=self.synonyms,
                batch_size=self.batch_size,
                use_gpu=self.device == "cuda",
                affinity_matrix=self.affinity,
            ),
            f"set clinical.ratescore.ner (now {self.ner!r}) and clinical.ratescore.synonyms (now {self.synonyms!r}) to folders",
        )

        def score(texts: list[str], their_references: list[str]) -> Floats:
            return np.array(scorer.compute_score(texts, their_references), dtype=np.float64)[:, None]

        return score_pairs_with_words(generated, references, score, [f"RaTEScore_{self.affinity}"], "RaTEScore")
