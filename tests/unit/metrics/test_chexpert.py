import numpy as np
import pytest
from sklearn.metrics import f1_score

from hardneg_plugin.metrics.chexpert import COMMON, CONDITIONS, label_f1
from hardneg_plugin.metrics.significance import compare, intervals

VARIANTS = [
    (average, size, uncertain)
    for average in ("micro", "macro", "example")
    for size in ("14", "5")
    for uncertain in ("positive", "negative")
]


def draw(seed, studies=40):
    """Labels in which two conditions are blank everywhere and one study on both sides."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], p=[0.25, 0.15, 0.15, 0.45], size=(studies, 14))
    labels[:, [3, 7]] = np.nan
    labels[5] = np.nan
    return labels


def by_sklearn(generated, references, average, size, uncertain):
    columns = range(14) if size == "14" else [CONDITIONS.index(name) for name in COMMON]
    positive = {1.0, -1.0} if uncertain == "positive" else {1.0}
    sides = [[[int(row[c] in positive) for c in columns] for row in side.tolist()] for side in (references, generated)]
    return f1_score(*sides, average="samples" if average == "example" else average, zero_division=0)


@pytest.mark.parametrize(("average", "size", "uncertain"), VARIANTS)
def test_every_variant_is_sklearns(average, size, uncertain):
    generated, references = draw(0), draw(1)
    expected = by_sklearn(generated, references, average, size, uncertain)
    value = label_f1(generated, references, "x").values[f"x_F1_{average}{size}_uncertain-{uncertain}"]
    assert value == pytest.approx(expected, abs=1e-12)
    assert 0 < value < 1


def test_there_are_no_other_scores_and_all_have_a_tally():
    scored = label_f1(draw(0), draw(1), "x")
    names = {f"x_F1_{average}{size}_uncertain-{uncertain}" for average, size, uncertain in VARIANTS}
    assert set(scored.values) == names
    assert {
        name: value for statistic in scored.statistics for name, value in statistic.values().items()
    } == scored.values
    assert set(scored.columns) == {name for name in names if "example" in name}


def test_a_study_scores_what_it_would_alone():
    generated, references = draw(0), draw(1)
    columns = label_f1(generated, references, "x").columns
    for i in range(len(generated)):
        alone = label_f1(generated[i : i + 1], references[i : i + 1], "x").values
        assert {name: column[i] for name, column in columns.items()} == {name: alone[name] for name in columns}


def test_resampled_sums_score_as_resampled_studies():
    generated, references = draw(0), draw(1)
    drawn = np.random.default_rng(2).integers(40, size=(3, 40))
    for statistic in label_f1(generated, references, "x").statistics:
        weights = np.stack([np.bincount(row, minlength=40) for row in drawn]).astype(float)
        scores = statistic.under(weights)
        for i, row in enumerate(drawn):
            expected = label_f1(generated[row], references[row], "x").values
            assert {name: values[i] for name, values in scores.items()} == pytest.approx(
                {name: expected[name] for name in scores}
            )


def test_intervals_and_paired_differences():
    scored, other = label_f1(draw(0), draw(1), "x"), label_f1(draw(1), draw(1), "x")
    for name, (low, high) in intervals(scored.statistics, resamples=100).items():
        assert low < scored.values[name] < high
    differences = compare([other.statistics], [scored.statistics], resamples=100)
    assert set(differences) == set(scored.values)
    # the smallest: no draw is on the other side
    assert differences["x_F1_micro14_uncertain-positive"].p_value == pytest.approx(2 / 101)


def test_nothing_labelled_is_zero():
    blank = np.full((3, 14), np.nan)
    assert set(label_f1(blank, blank, "x").values.values()) == {0.0}


@pytest.mark.parametrize("shape", [(3, 13), (2, 14)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected labels \(N, 14\)"):
        label_f1(np.zeros(shape), np.zeros((3, 14)), "x")
