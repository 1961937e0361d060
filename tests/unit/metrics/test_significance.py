"""Intervals and tests against scipy, against brute force, and against what they promise."""

import itertools

import numpy as np
import pytest
from scipy import stats

from hardneg_plugin.metrics import significance
from hardneg_plugin.metrics.significance import compare, holm, intervals
from hardneg_plugin.metrics.statistics import MeanOfRuns, SumStatistic, means


def ratio(rows):
    """A score that is no mean: the ratio of two sums, as micro F1 is."""
    return SumStatistic(
        np.asarray(rows, dtype=float), lambda sums: {"ratio": sums[..., 0] / np.maximum(sums[..., 1], 1)}
    )


def test_the_interval_is_that_of_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    (low, high) = intervals([means({"x": values})], resamples=20_000)["x"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_the_interval_of_a_ratio_is_that_of_drawing_studies_one_by_one():
    rng = np.random.default_rng(1)
    rows = np.stack([rng.integers(0, 4, 30), rng.integers(4, 8, 30)], axis=1)
    drawn = []
    for _ in range(20_000):
        chosen = rows[rng.integers(30, size=30)]
        drawn.append(chosen[:, 0].sum() / chosen[:, 1].sum())
    low, high = np.quantile(drawn, [0.05, 0.95])
    ours = intervals([ratio(rows)], resamples=20_000, level=0.9)["ratio"]
    assert ours == pytest.approx((low, high), abs=0.03 * (high - low))


def test_an_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        low, high = intervals([means({"x": rng.normal(1, 1, 60)})], resamples=400, level=0.9, seed=seed)["x"]
        covered += low <= 1 <= high
    assert 0.85 <= covered / 300 <= 0.94


@pytest.mark.parametrize("block", [1, 7, 2**22])
def test_what_is_held_at_once_changes_nothing(monkeypatch, block):
    rng = np.random.default_rng(3)
    ours, theirs = ([[means({"x": rng.normal(size=20)})] for _ in range(2)] for _ in range(2))
    expected = intervals(ours[0], resamples=50), compare(ours, theirs, resamples=50)
    monkeypatch.setattr(significance, "_BLOCK", block * 20)
    assert intervals(ours[0], resamples=50)["x"] == pytest.approx(expected[0]["x"], abs=1e-12)
    again = compare(ours, theirs, resamples=50)["x"]
    assert vars(again) == pytest.approx(vars(expected[1]["x"]), abs=1e-12)


def test_the_p_value_is_that_of_all_swaps():
    rng = np.random.default_rng(4)
    ours, theirs = (rng.integers([0, 6], [most, 6 + most], (10, 2)) for most in (6, 5))
    observed = ours[:, 0].sum() / ours[:, 1].sum() - theirs[:, 0].sum() / theirs[:, 1].sum()
    as_large = 0
    for swap in itertools.product([False, True], repeat=10):
        first, second = np.where(np.array(swap)[:, None], [theirs, ours], [ours, theirs])
        difference = first[:, 0].sum() / first[:, 1].sum() - second[:, 0].sum() / second[:, 1].sum()
        as_large += abs(difference) >= abs(observed) - 1e-12
    found = compare([[ratio(ours)]], [[ratio(theirs)]], resamples=20_000)["ratio"]
    assert found.difference == pytest.approx(observed)
    assert found.p_value == pytest.approx(as_large / 1024, abs=0.01)


def test_the_p_value_of_a_mean_is_scipys():
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(0.25, 1, 50), rng.normal(0, 1, 50)
    expected = stats.permutation_test(
        (ours, theirs), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    found = compare([[means({"x": ours})]], [[means({"x": theirs})]], resamples=20_000)["x"]
    assert found.p_value == pytest.approx(expected, abs=0.01)


def test_the_interval_of_a_difference_is_paired():
    rng = np.random.default_rng(6)
    hard = rng.normal(0, 10, 100)  # studies differ by far more than models
    noise = rng.normal(0, 0.1, 100)
    found = compare([[means({"x": hard + 1 + noise})]], [[means({"x": hard})]])["x"]
    assert found.difference == pytest.approx(1 + noise.mean())
    assert 0.95 < found.low < 1 < found.high < 1.05
    assert found.p_value == pytest.approx(1 / 2001)


def test_with_several_seeds_the_interval_holds_for_other_trainings_too():
    rng = np.random.default_rng(7)
    of_seeds = [-2.0, 0.0, 2.0]  # what a training happens to add, with hardly any noise between studies
    ours = [[means({"x": rng.normal(0.5 + shift, 0.01, 200)})] for shift in of_seeds]
    theirs = [[means({"x": rng.normal(0, 0.01, 200)})] for _ in of_seeds]
    found = compare(ours, theirs)["x"]
    assert (found.ours, found.theirs, found.difference) == pytest.approx((0.5, 0, 0.5), abs=0.01)
    # three seeds drawn with replacement: the mean of -2, -2, -2 has probability 1/27, above 2.5 %
    assert (found.low, found.high) == pytest.approx((-1.5, 2.5), abs=0.05)


def test_equal_models_do_not_differ():
    statistics = [[means({"x": np.random.default_rng(8).normal(size=40)})]]
    found = compare(statistics, statistics)["x"]
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_p_values_of_models_that_do_not_differ_are_uniform():
    rng = np.random.default_rng(9)
    p_values = [
        compare([[means({"x": a})]], [[means({"x": b})]], resamples=200)["x"].p_value
        for a, b in rng.normal(size=(300, 2, 30))
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_only_scores_that_all_have_are_compared():
    x, y = means({"x": [1.0, 2.0]}), means({"y": [1.0, 2.0]})
    assert list(compare([[x, y]], [[x]])) == ["x"]
    assert list(compare([[x], [x, y]], [[x, y], [x, y]])) == ["x"]


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        ([], [], {}),
        ([[means({"x": [1.0]})]], [], {}),
        ([[means({"x": [1.0]})]], [[means({"x": [1.0, 2.0]})]], {}),
        ([[means({"x": [1.0]})]], [[means({"x": [1.0]})]], {"resamples": 0}),
        ([[means({"x": [1.0]})]], [[means({"x": [1.0]})]], {"level": 1.0}),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, theirs, settings):
    with pytest.raises(ValueError, match="Expected"):
        compare(ours, theirs, **settings)


def test_holm_by_its_definition():
    p_values = np.random.default_rng(10).uniform(0, 0.2, 12)
    adjusted = holm(p_values)
    for threshold in np.linspace(0.001, 0.999, 97):
        rejected, order = set(), np.argsort(p_values)
        for rank, index in enumerate(order):  # step down: stop at the first that is not rejected
            if p_values[index] > threshold / (12 - rank):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= threshold} == rejected
    assert holm([]) == []


def test_means_leave_out_what_does_not_count():
    statistic = means({"all": [1, 2, 6], "some": [float("nan"), 2, 4], "none": [float("nan")] * 3})
    assert statistic.values() == {"all": 3, "some": 3, "none": 0}
    assert statistic.under(np.array([[0.0, 2, 1]]))["some"] == pytest.approx(8 / 3)


def test_of_several_models_the_mean_of_their_scores():
    rng = np.random.default_rng(11)
    of = [ratio(rng.integers(1, 9, (6, 2))) for _ in range(3)]
    mean = MeanOfRuns(tuple(of))
    assert mean.values() == {"ratio": pytest.approx(np.mean([statistic.values()["ratio"] for statistic in of]))}
    others = [ratio(rng.integers(1, 9, (6, 2))) for _ in range(3)]
    weights = rng.integers(0, 3, (4, 12)).astype(float)
    expected = [
        [np.divide(*(row[:6] @ a.rows + row[6:] @ b.rows)) for a, b in zip(of, others, strict=True)] for row in weights
    ]
    assert mean.joined(MeanOfRuns(tuple(others))).under(weights)["ratio"] == pytest.approx(np.mean(expected, axis=1))
