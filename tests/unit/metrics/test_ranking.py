"""The area under the ROC curve out of sums over studies, against scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hardneg_plugin.metrics import ranking
from hardneg_plugin.metrics.ranking import auroc_tally

STUDIES = 60


@pytest.fixture
def drawn():
    """Scores with ties and gaps, and labels, of four findings; nobody has the last."""
    draw = np.random.default_rng(0)
    scores = {name: draw.normal(size=STUDIES) for name in "abcd"}
    scores["b"] = scores["b"].round()
    scores["c"][draw.random(STUDIES) < 0.3] = np.nan
    labels = {name: (draw.random(STUDIES) + (scores[name] > 0) * 0.3 > 0.6).astype(float) for name in "abc"}
    return scores, {**labels, "d": np.zeros(STUDIES)}


def areas(scores, labels, weights):
    """Of the findings that count, with each study as often as its weight says."""
    found = []
    for name in scores:
        rows = np.repeat(np.arange(STUDIES), weights)
        rows = rows[~np.isnan(scores[name][rows])]
        if len(set(labels[name][rows])) == 2:
            found.append(roc_auc_score(labels[name][rows], scores[name][rows]))
    return found


def test_is_scikit_learns_for_all_studies_and_under_any_weights(drawn):
    tally = auroc_tally("AUROC", *drawn)
    once = areas(*drawn, np.ones(STUDIES, int))
    assert len(once) == 3
    assert tally.values() == {"AUROC": pytest.approx(np.mean(once))}
    draw = np.random.default_rng(1)
    weights = np.stack([np.bincount(draw.integers(STUDIES, size=STUDIES), minlength=STUDIES) for _ in range(20)])
    computed = tally.scores(weights @ tally.rows)["AUROC"]
    assert computed == pytest.approx([np.mean(areas(*drawn, row)) for row in weights])
    assert len(set(computed.tolist())) > 1


def test_a_finding_drawn_without_the_studies_that_have_it_does_not_count(drawn):
    scores, labels = drawn
    tally = auroc_tally("AUROC", scores, labels)
    weights = (labels["a"] == 0).astype(int)
    left = areas({name: scores[name] for name in "bcd"}, labels, weights)
    assert tally.scores(weights @ tally.rows)["AUROC"] == pytest.approx(np.mean(left))
    assert tally.scores(0 * weights @ tally.rows)["AUROC"] == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 1, 1, 1], [0, 0, 1, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([1, 2, 3, 4], [1, 1, 1, 1], 0.5),
        ([math.nan] * 4, [0, 1, 0, 1], 0.5),
        ([-math.inf, 0, 1, math.inf], [0, 1, 0, 1], 0.75),
    ],
)
def test_areas_known_beforehand(scores, labels, expected):
    assert auroc_tally("AUROC", {"a": scores}, {"a": labels}).values() == {"AUROC": pytest.approx(expected)}


def test_more_studies_than_bins_are_nearly_exact(monkeypatch):
    draw = np.random.default_rng(0)
    scores = draw.normal(size=3000)
    labels = (draw.normal(size=3000) + scores > 0).astype(float)
    exact = roc_auc_score(labels, scores)
    assert auroc_tally("AUROC", {"a": scores}, {"a": labels}).values()["AUROC"] == pytest.approx(exact, abs=1e-12)
    monkeypatch.setattr(ranking, "NUMBERS", 2 * 3000 * 128)
    tally = auroc_tally("AUROC", {"a": scores}, {"a": labels})
    assert tally.rows.shape == (3000, 2 * 128)
    assert tally.values()["AUROC"] == pytest.approx(exact, abs=2e-3)
    assert tally.values()["AUROC"] != exact
