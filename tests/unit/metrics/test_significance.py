"""Intervals and tests against scipy, against brute force, and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from hardneg_plugin.metrics import significance
from hardneg_plugin.metrics.significance import compare, holm, intervals, smallest_p_value
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


def test_interval_and_p_value_are_those_of_drawing_studies_and_seeds_one_by_one():
    rng = np.random.default_rng(4)
    ours, theirs = (rng.integers([0, 6], [most, 6 + most], (3, 12, 2)) for most in (7, 6))

    def difference(seeds, studies):
        each = []
        for seed in seeds:
            a, b = ours[seed][studies], theirs[seed][studies]
            each.append(a[:, 0].sum() / a[:, 1].sum() - b[:, 0].sum() / b[:, 1].sum())
        return np.mean(each)

    drawn = np.array([difference(rng.integers(3, size=3), rng.integers(12, size=12)) for _ in range(20_000)])
    found = compare([[ratio(rows)] for rows in ours], [[ratio(rows)] for rows in theirs], resamples=20_000)["ratio"]
    assert found.difference == pytest.approx(difference(range(3), np.arange(12)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03 * (high - low))
    assert found.p_value == pytest.approx(2 * min((drawn <= 0).mean(), (drawn >= 0).mean()), abs=0.015)


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.4])
def test_the_p_value_of_a_mean_under_one_seed_is_that_of_the_normal_distribution(shift):
    differences = np.random.default_rng(5).normal(shift, 1, 200)
    expected = 2 * stats.norm.sf(abs(differences.mean()) / (differences.std() / np.sqrt(200)))
    found = compare([[means({"x": differences})]], [[means({"x": [0.0] * 200})]], resamples=20_000)["x"]
    assert found.p_value == pytest.approx(expected, abs=0.02)


def test_a_small_p_value_never_goes_with_an_interval_that_contains_zero():
    rng = np.random.default_rng(12)
    small = 0
    for resamples in (19, 100, 101, 399):
        for shift in np.linspace(-1.2, 1.2, 60):
            of_seeds = [[means({"x": rng.normal(shift + luck, 1, 15)})] for luck in rng.normal(0, 0.5, 3)]
            nothing = [[means({"x": [0.0] * 15})]] * 3
            found = compare(of_seeds, nothing, resamples=resamples)["x"]
            assert found.p_value >= smallest_p_value(resamples)
            if found.p_value < 0.05:
                small += 1
                assert found.low > 0 or found.high < 0
    assert small > 50


def test_the_interval_of_a_difference_is_paired():
    rng = np.random.default_rng(6)
    hard = rng.normal(0, 10, 100)  # studies differ by far more than models
    noise = rng.normal(0, 0.1, 100)
    found = compare([[means({"x": hard + 1 + noise})]], [[means({"x": hard})]])["x"]
    assert found.difference == pytest.approx(1 + noise.mean())
    assert 0.95 < found.low < 1 < found.high < 1.05
    assert found.p_value == pytest.approx(2 / 2001)


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
