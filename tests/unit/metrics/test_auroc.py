"""The area under the ROC curve out of sums over studies, against scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hardneg_plugin.metrics import auroc
from hardneg_plugin.metrics.auroc import mean_auroc

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


def areas(drawn, weights):
    """Of the findings that count, with each study as often as its weight says."""
    (scores, labels), found = drawn, []
    for name in scores:
        rows = np.repeat(np.arange(STUDIES), weights)
        rows = rows[~np.isnan(scores[name][rows])]
        if len(set(labels[name][rows])) == 2:
            found.append(roc_auc_score(labels[name][rows], scores[name][rows]))
    return found


def test_is_scikit_learns_for_all_studies_and_under_any_weights(drawn):
    statistic = mean_auroc("AUROC", *drawn)
    once = areas(drawn, np.ones(STUDIES, int))
    assert len(once) == 3
    assert statistic.values() == {"AUROC": pytest.approx(np.mean(once))}
    draw = np.random.default_rng(1)
    weights = np.stack([np.bincount(draw.integers(STUDIES, size=STUDIES), minlength=STUDIES) for _ in range(20)])
    computed = statistic.under(weights)["AUROC"]
    assert computed == pytest.approx([np.mean(areas(drawn, row)) for row in weights])
    assert len(set(computed.tolist())) > 1


def test_a_finding_drawn_without_the_studies_that_have_it_does_not_count(drawn):
    scores, labels = drawn
    statistic = mean_auroc("AUROC", scores, labels)
    weights = (labels["a"] == 0).astype(int)[None]
    left = areas(({name: scores[name] for name in "bcd"}, labels), weights[0])
    assert statistic.under(weights)["AUROC"] == pytest.approx(np.mean(left))
    assert statistic.under(0 * weights)["AUROC"] == 0.5


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
    assert mean_auroc("AUROC", {"a": scores}, {"a": labels}).values() == {"AUROC": pytest.approx(expected)}


@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_what_is_held_at_once_changes_nothing(monkeypatch, drawn, block):
    monkeypatch.setattr(auroc, "_BLOCK", block)
    assert mean_auroc("AUROC", *drawn).values() == {
        "AUROC": pytest.approx(np.mean(areas(drawn, np.ones(STUDIES, int))))
    }
