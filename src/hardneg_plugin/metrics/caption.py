"""BLEU, ROUGE-L, CIDEr and METEOR of generated reports, as pycocoevalcap computes them."""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from hardneg_plugin.data.texts import lacks_spaces
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.meteor import MeteorError, check_pairs, meteor_scores
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic, means

ORDERS = 4
"""BLEU-1 to BLEU-4."""
CAPTION_SCORES = (*(f"BLEU-{n}" for n in range(1, ORDERS + 1)), "METEOR", "ROUGE-L", "CIDEr")
"""The names of the scores of `CaptionScores`, known without the package that computes them."""


@dataclass(frozen=True)
class CaptionScores:
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr of a corpus.

    Texts are already cleaned, as is usual for R2Gen's splits; words are separated by whitespace. An empty generated report scores
    0. CIDEr weighs words by their rarity among the references, so it depends on the whole corpus, and is 0 for a single study.

    Args:
        meteor: whether to compute METEOR, which needs Java and about ten seconds at its first use.
        as_given: whether ROUGE-L counts words as pycocoevalcap does: two blanks have an empty word between them, and a line break
            ends none. The other scores are the same either way.

    Raises:
        UserError: pycocoevalcap is not installed; raised at construction, before any training.

    Source: Papineni et al. 2002; Lin 2004; Vedantam et al. 2015; Denkowski and Lavie 2014.

    >>> generated, references = ["no pleural effusion .", "clear lungs ."], ["no pleural effusion .", "lungs are clear ."]
    >>> scores = CaptionScores(meteor=False)(generated, references)
    >>> round(scores.values["BLEU-1"], 3), scores.columns["ROUGE-L"][0]
    (0.867, 1.0)
    """

    meteor: bool = True
    as_given: bool = False

    def __post_init__(self) -> None:
        if importlib.util.find_spec("pycocoevalcap") is None:
            raise UserError(
                "BLEU, ROUGE-L, CIDEr and METEOR need the package pycocoevalcap, which is not installed: "
                "`pip install pycocoevalcap`, or switch these scores off with `metrics.caption=null`."
            )

    def __call__(self, generated: Sequence[str], references: Sequence[str]) -> ScoreCard:
        """Score N >= 1 generated reports.

        Args:
            generated: N texts.
            references: N texts.

        Returns:
            Of the corpus "BLEU-1" to "BLEU-4", "METEOR", "ROUGE-L" in [0, 1] and "CIDEr" in [0, 10]; of each report "BLEU-4",
            "METEOR", "ROUGE-L" and "CIDEr". If METEOR cannot be computed, it is left out with a warning; references without spaces
            between words are warned of, too.

        Raises:
            ValueError: the numbers of texts differ, or there are none.
        """
        check_pairs(generated, references)
        if lacks_spaces(references):
            _warn_once(
                "The references have no spaces between words, so BLEU, ROUGE-L, CIDEr and METEOR take whole sentences for words. "
                "Put spaces between words or characters, in references and generated reports."
            )
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        if not self.as_given:
            generated, references = [_words(text) for text in generated], [_words(text) for text in references]
        bleu_scorer = BleuScorer(n=ORDERS)
        for text, reference in zip(generated, references, strict=True):
            bleu_scorer += (text, [reference])
        bleu, bleu_each = bleu_scorer.compute_score(option="closest", verbose=0)
        values = {f"BLEU-{n}": float(score) for n, score in enumerate(bleu, start=1)}
        counts = [[text["testlen"], *text["reflen"], *text["guess"], *text["correct"]] for text in bleu_scorer.ctest]
        statistic = SumStatistic(np.array(counts, dtype=np.float64), _bleu)
        card = ScoreCard(values, {"BLEU-4": bleu_each[-1]}, [statistic])
        if self.meteor:
            try:
                card.add(meteor_scores(generated, references))
            except MeteorError as error:
                _warn_once(f"METEOR is left out of the scores: {error}. To switch it off, set `meteor=False`.")
        by_index = {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(generated)}
        rouge, rouge_each = Rouge().compute_score(*by_index)
        # CIDEr fails where the references hold no word at all
        cider, cider_each = (
            Cider().compute_score(*by_index) if any(map(str.split, references)) else (0.0, [0.0] * len(references))
        )
        of_mean = {"ROUGE-L": list(map(float, rouge_each)), "CIDEr": list(map(float, cider_each))}
        card.add(ScoreCard({"ROUGE-L": float(rouge), "CIDEr": float(cider)}, of_mean, [means(of_mean)]))
        return card


def _bleu(sums: Floats) -> dict[str, Floats]:
    """Corpus BLEU: the brevity penalty times the geometric mean of precisions, with pycocoevalcap's guards against 0/0.

    Args:
        sums: `(..., 2 + 2 * ORDERS)`, of the words of reports and of references, the n-grams, and the n-grams found.
    """
    tiny, small = 1e-15, 1e-9
    words, reference_words = sums[..., 0], sums[..., 1]
    guess, correct = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    product = np.cumprod((correct + tiny) / (guess + small), axis=-1)
    ratio = (words + tiny) / (reference_words + small)
    brevity = np.where(ratio < 1, np.exp(np.minimum(0, 1 - 1 / np.where(ratio < 1, ratio, 1))), 1)
    return {f"BLEU-{n}": np.asarray(product[..., n - 1] ** (1 / n) * brevity) for n in range(1, ORDERS + 1)}


def _words(text: str) -> str:
    return " ".join(text.split())


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
