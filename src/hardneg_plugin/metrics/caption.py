"""BLEU, ROUGE-L, CIDEr and METEOR of generated reports, as pycocoevalcap computes them."""

import importlib.util
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.gathering import StudyMetric
from hardneg_plugin.metrics.meteor import MeteorError, meteor_scores

Scores = dict[str, float]


def caption_scores(
    generated: Sequence[str], references: Sequence[str], *, meteor: bool = True
) -> tuple[Scores, list[Scores]]:
    """The scores of a corpus, and those of each of its texts.

    Words are what whitespace separates: texts are scored as given, already cleaned, as is the practice for R2Gen's
    splits; line breaks and runs of whitespace count as one space. An empty generated text scores 0 against any words.
    CIDEr weighs words by how rare they are among these references, so it depends on the whole corpus (and is 0 for a
    single study).

    Args:
        generated: N >= 1 texts.
        references: N texts, one for each.
        meteor: whether to compute METEOR too, which needs Java.

    Returns:
        Of the corpus "BLEU-1" to "BLEU-4", "METEOR", "ROUGE-L" in [0, 1] and "CIDEr" in [0, 10]; of each text "BLEU-4",
        "METEOR", "ROUGE-L" and "CIDEr". Where METEOR cannot be computed its keys are left out, and a warning says why.

    Raises:
        ValueError: if the numbers of texts differ, or there are none.
        UserError: if pycocoevalcap is not installed.

    Source: Papineni et al. 2002; Lin 2004; Vedantam et al. 2015; Denkowski and Lavie 2014.
    """
    if len(generated) != len(references) or not generated:
        raise ValueError(f"Expected as many texts as references, but got {len(generated)} and {len(references)}.")
    check_installed()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    generated, references = [_words(text) for text in generated], [_words(text) for text in references]
    by_index = {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(generated)}
    bleu, bleu_each = Bleu(4).compute_score(*by_index, verbose=0)
    rouge, rouge_each = Rouge().compute_score(*by_index)
    # CIDEr asks for the commonest n-gram of the references, and fails where there is none at all.
    cider, cider_each = Cider().compute_score(*by_index) if any(references) else (0.0, [0.0] * len(references))

    corpus = {f"BLEU-{n}": float(score) for n, score in enumerate(bleu, start=1)}
    columns = {"BLEU-4": bleu_each[3]}
    if meteor:
        try:
            corpus["METEOR"], columns["METEOR"] = meteor_scores(generated, references)
        except MeteorError as error:
            _warn_once(f"METEOR is left out of the scores: {error}. To do without it, set `meteor=False`.")
    corpus |= {"ROUGE-L": float(rouge), "CIDEr": float(cider)}
    columns |= {"ROUGE-L": rouge_each, "CIDEr": cider_each}
    return corpus, [{name: float(scores[i]) for name, scores in columns.items()} for i in range(len(generated))]


def check_installed() -> None:
    """Raise a UserError where pycocoevalcap is not installed; looks for it without importing it."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise UserError(
            "BLEU, ROUGE-L, CIDEr and METEOR need the package pycocoevalcap, which is not installed: "
            "`pip install pycocoevalcap`, or switch these scores off with `metrics.caption=null`."
        )


class CaptionScores(StudyMetric[dict[str, Scores]]):
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr over a split, each study counted once over all ranks.

    `compute()` gives a dictionary with these names; "METEOR" is missing where Java is (see `caption_scores`).

    Args:
        meteor: whether to compute METEOR, which needs Java and about ten seconds at its first use.

    Raises:
        UserError: if pycocoevalcap is not installed; at construction, so that no epoch is spent before.
    """

    higher_is_better = True

    def __init__(self, meteor: bool = True) -> None:
        super().__init__()
        check_installed()
        self.meteor = meteor

    def update(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Add B studies.

        Args:
            generated: B texts, cleaned like the references; may be empty texts.
            references: B texts to score against.
            ids: B study identifiers, unique within the split.
        """
        self.remember(ids, generated, references)

    def score(self, ids: list[str], *columns: Any) -> tuple[Scores, dict[str, Scores]]:
        """The scores of the corpus, and by study."""
        corpus, each = caption_scores(*columns, meteor=self.meteor)
        return corpus, dict(zip(ids, each, strict=True))

    def per_study(self) -> dict[str, Scores]:
        """By study identifier: "BLEU-4", "METEOR", "ROUGE-L", "CIDEr" of its text; on every rank all studies.

        Computes what `compute` computes, unless that was called since the last `update`: call it on all ranks.
        """
        self.compute()
        return self._details or {}


def _words(text: str) -> str:
    return " ".join(text.split())


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
