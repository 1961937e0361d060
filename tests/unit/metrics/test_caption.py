import math
import warnings
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics import caption, meteor
from hardneg_plugin.metrics.caption import CaptionScores


def bleu_oracle(generated: list[str], references: list[str], order: int) -> float:
    """Corpus BLEU by its definition: geometric mean of clipped n-gram precisions, times the brevity penalty."""
    precisions = []
    for n in range(1, order + 1):
        common = total = 0
        for text, reference in zip(generated, references, strict=True):
            words, wanted = text.split(), reference.split()
            found = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            allowed = Counter(tuple(wanted[i : i + n]) for i in range(len(wanted) - n + 1))
            common += sum(min(count, allowed[ngram]) for ngram, count in found.items())
            total += sum(found.values())
        precisions.append(common / total if total else 0.0)
    if min(precisions) == 0:
        return 0.0
    length, wanted_length = (sum(len(text.split()) for text in texts) for texts in (generated, references))
    return math.exp(min(0.0, 1 - wanted_length / length)) * math.prod(precisions) ** (1 / order)


def rouge_oracle(text: str, reference: str) -> float:
    """ROUGE-L by its definition: F-measure (beta 1.2) of the longest common subsequence."""
    a, b = text.split(), reference.split()

    @lru_cache(None)
    def longest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + longest(i + 1, j + 1) if a[i] == b[j] else max(longest(i + 1, j), longest(i, j + 1))

    common = longest(0, 0)
    if common == 0:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def caption_scores(generated, references, meteor=True):
    scored = CaptionScores(meteor)(generated, references)
    return scored.values, [
        dict(zip(scored.columns, row, strict=True)) for row in zip(*scored.columns.values(), strict=True)
    ]


def test_equals_pycocoevalcap(reports):
    generated, references, _ = reports
    corpus, each = caption_scores(generated, references, meteor=False)
    pair = {i: [t] for i, t in enumerate(references)}, {i: [t] for i, t in enumerate(generated)}
    bleu, bleu_each = Bleu(4).compute_score(*pair, verbose=0)
    rouge, rouge_each = Rouge().compute_score(*pair)
    cider, cider_each = Cider().compute_score(*pair)
    expected = {f"BLEU-{n}": bleu[n - 1] for n in (1, 2, 3, 4)} | {"ROUGE-L": rouge, "CIDEr": cider}
    assert corpus == pytest.approx(expected, abs=1e-9)
    for i, scores in enumerate(each):
        expected = {"BLEU-4": bleu_each[3][i], "ROUGE-L": rouge_each[i], "CIDEr": cider_each[i]}
        assert scores == pytest.approx(expected, abs=1e-9)


def test_equals_the_definitions(reports):
    generated, references, _ = reports
    corpus, each = caption_scores(generated, references, meteor=False)
    for n in (1, 2, 3, 4):
        assert corpus[f"BLEU-{n}"] == pytest.approx(bleu_oracle(generated, references, n), abs=1e-7)
    rouge = [rouge_oracle(*texts) for texts in zip(generated, references, strict=True)]
    assert [scores["ROUGE-L"] for scores in each] == pytest.approx(rouge, abs=1e-12)
    assert corpus["ROUGE-L"] == pytest.approx(sum(rouge) / len(rouge), abs=1e-12)


def test_known_values(reports):
    _, references, _ = reports
    perfect, each = caption_scores(references, references, meteor=False)
    assert [perfect[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1] * 4, abs=1e-6)
    assert perfect["ROUGE-L"] == 1
    assert perfect["CIDEr"] == pytest.approx(10, abs=1e-9) == each[0]["CIDEr"]

    silent, each = caption_scores([""] * len(references), references, meteor=False)
    assert silent == pytest.approx(dict.fromkeys(silent, 0.0), abs=1e-12)
    assert all(value == pytest.approx(0, abs=1e-12) for scores in each for value in scores.values())

    # Half of the words, all of them right: precision 1, brevity exp(1 - 8 / 4).
    corpus, _ = caption_scores(["a b c d"], ["a b c d e f g h"], meteor=False)
    assert corpus["BLEU-1"] == pytest.approx(math.exp(-1), abs=1e-6) == corpus["BLEU-4"]


def test_whitespace_is_one_space_and_nothing_else_changes():
    plain = ["the heart is normal .", "no effusion"], ["the heart is big .", "no pleural effusion"]
    spaced = [" the  heart\nis normal\t.\n", "no\r\neffusion"], ["the heart\n\nis big .", "no  pleural effusion "]
    assert caption_scores(*spaced, meteor=False) == caption_scores(*plain, meteor=False)
    assert caption_scores(["The Heart"], ["the heart"], meteor=False)[0]["BLEU-1"] < 0.01


@pytest.mark.parametrize("generated", [[""], ["a"], ["", ""], ["a b", "c"]])
@pytest.mark.parametrize("reference", ["", "a"])
def test_awkward_corpora_have_finite_scores(generated, reference):
    corpus, each = caption_scores(generated, [reference] * len(generated), meteor=False)
    values = [*corpus.values(), *(value for scores in each for value in scores.values())]
    assert all(math.isfinite(value) and 0 <= value <= 10 for value in values)
    assert len(each) == len(generated)


def test_names_and_silence(fake_meteor, reports, capfd):
    generated, references, _ = reports
    scored = CaptionScores()(generated, references)
    assert list(scored.values) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert tuple(scored.values) == caption.CAPTION_SCORES
    assert list(scored.columns) == ["BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert {len(column) for column in scored.columns.values()} == {23}
    assert capfd.readouterr().out == "", "pycocoevalcap must not print"


def test_scores_follow_from_sums_over_studies(reports):
    generated, references, _ = reports
    scored = CaptionScores(meteor=False)(generated, references)
    of_sums = {name: value for statistic in scored.statistics for name, value in statistic.values().items()}
    assert of_sums == pytest.approx(scored.values, abs=1e-12)
    # of a part of the studies, and with some drawn twice, what pycocoevalcap says of that corpus
    drawn = [0, 3, 3, 7, 11, 11, 11, 20]
    bleu_tally = scored.statistics[0]
    bleu, _ = Bleu(4).compute_score(
        {i: [references[j]] for i, j in enumerate(drawn)}, {i: [generated[j]] for i, j in enumerate(drawn)}, verbose=0
    )
    of_drawn = bleu_tally.under(np.bincount(drawn, minlength=bleu_tally.studies)[None])
    assert [of_drawn[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleu, abs=1e-12)


def test_without_java_the_other_scores_stand_and_one_warning_says_why(monkeypatch, tmp_path, reports):
    meteor.close()
    caption._warn_once.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    generated, references, _ = reports
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            scored = CaptionScores()(generated, references)
    assert [str(warning.message) for warning in told] == [
        "METEOR is left out of the scores: there is no `java` on the PATH: install a Java runtime (8 or newer). "
        "To switch it off, set `meteor=False`."
    ]
    assert scored.values == CaptionScores(meteor=False)(generated, references).values
    assert "METEOR" not in scored.values


def test_meteor_switched_off_warns_of_nothing(monkeypatch, tmp_path, reports):
    monkeypatch.setenv("PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "METEOR" not in caption_scores(*reports[:2], meteor=False)[0]


def test_a_missing_pycocoevalcap_is_told_at_construction(monkeypatch):
    monkeypatch.setattr(caption.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`pip install pycocoevalcap`, or .* `metrics.caption=null`"):
        CaptionScores()


@pytest.mark.parametrize(("generated", "references"), [([], []), (["a"], ["a", "b"])])
def test_refuses_unequal_numbers_of_texts(generated, references):
    with pytest.raises(ValueError, match="as many generated reports as references"):
        caption_scores(generated, references)


def test_references_without_spaces_are_warned_of():
    chinese = "\u53cc\u80ba\u7eb9\u7406\u6e05\u6670\uff0c\u672a\u89c1\u5b9e\u53d8\u5f71\u3002"
    caption._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="no spaces between words"):
        caption_scores([chinese], [chinese], meteor=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caption_scores([" ".join(chinese)], [" ".join(chinese)], meteor=False)
