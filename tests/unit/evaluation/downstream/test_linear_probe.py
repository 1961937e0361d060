import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.linear_probe import LabelledFeatures, linear_probe, nested_subsets


def logistic_oracle(features: np.ndarray, labels: np.ndarray, strength: float, test: np.ndarray) -> np.ndarray:
    """Standardised, then C * sum of the log losses + half the squared weights, minimised by a general solver."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    x, sign = (features - mean) / std, np.where(labels, 1.0, -1.0)

    def cost(weights):
        return strength * np.logaddexp(0, -sign * (x @ weights[1:] + weights[0])).sum() + weights[1:] @ weights[1:] / 2

    found = minimize(cost, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-7}).x
    return (test - mean) / std @ found[1:] + found[0]


def split(count, seed, findings=3):
    """Features on unlike scales; finding f shows in feature f, less and less clearly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(count, findings, generator=generator) < 0.4
    noise = torch.randn(count, 5, generator=generator)
    noise[:, :findings] += 2 * labels.float() / torch.arange(1, findings + 1)
    return LabelledFeatures(100 + noise * torch.tensor([0.01, 1.0, 30.0, 1.0, 5.0]), labels)


@pytest.fixture(scope="module")
def splits():
    return split(200, 0), split(100, 1), split(150, 2)


def test_scores_are_those_of_standardised_logistic_regression(splits):
    train, val, test = splits
    (probe,) = linear_probe(train, val, test, shares=[1.0], strengths=[0.05])
    assert probe.strengths == (0.05, 0.05, 0.05)
    for f in range(3):
        arrays = (part.double().numpy() for part in (train.features, test.features))
        features, tested = arrays
        expected = logistic_oracle(features, train.labels[:, f].numpy(), 0.05, tested)
        assert probe.scores[:, f].numpy() == pytest.approx(expected, abs=2e-3)
        assert float(probe.auroc[f]) == pytest.approx(roc_auc_score(test.labels[:, f], expected), abs=1e-3)
    assert probe.auroc[0] > 0.85


def test_the_strength_is_chosen_on_val_alone(splits):
    train, val, test = splits
    strengths = (1e-4, 0.01, 1.0)
    each = [linear_probe(train, val, val, shares=[0.1], strengths=[s])[0].auroc for s in strengths]
    (chosen,) = linear_probe(train, val, test, shares=[0.1], strengths=strengths[::-1])
    best = torch.stack(each)
    assert chosen.strengths == tuple(strengths[int(best[:, f].argmax())] for f in range(3))
    assert len(set(chosen.strengths)) > 1  # the choice is one
    alone = [linear_probe(train, val, test, shares=[0.1], strengths=[s])[0].scores for s in strengths]
    for f, strength in enumerate(chosen.strengths):
        assert torch.equal(chosen.scores[:, f], alone[strengths.index(strength)][:, f])


def test_where_val_is_of_one_class_the_penalty_is_the_strongest(splits):
    train, val, test = splits
    (probe,) = linear_probe(train, LabelledFeatures(val.features, torch.ones_like(val.labels)), test, shares=[1.0])
    assert probe.strengths == (0.0001, 0.0001, 0.0001)
    assert probe.auroc[0] > 0.85


def test_of_equally_good_strengths_the_smallest_is_chosen(splits):
    single = [
        LabelledFeatures(part.features[:, :1], part.labels[:, :1]) for part in splits
    ]  # one feature: all rank alike
    (probe,) = linear_probe(*single, shares=[1.0], strengths=[1.0, 0.01, 0.1])
    assert probe.strengths == (0.01,)


def test_a_finding_of_one_class_is_left_to_chance(splits):
    train, val, test = splits
    labels = train.labels.clone()
    labels[:, 1], labels[:, 2] = False, True
    (probe,) = linear_probe(LabelledFeatures(train.features, labels), val, test, shares=[1.0])
    assert probe.strengths[0] is not None
    assert probe.strengths[1:] == (None, None)
    assert probe.auroc.tolist()[1:] == [0.5, 0.5]
    assert probe.scores[:, 1:].eq(0).all()


def test_a_test_split_of_one_class_has_no_auroc(splits):
    train, val, test = splits
    (probe,) = linear_probe(train, val, LabelledFeatures(test.features, torch.zeros_like(test.labels)), shares=[1.0])
    assert probe.auroc.isnan().all()


def test_a_share_is_trained_on_its_studies_only(splits):
    train, val, test = splits
    (subset,) = nested_subsets(200, [0.25], seed=3)
    probe = linear_probe(train, val, test, shares=[1.0, 0.25], seed=3)[1]
    assert (probe.share, probe.studies) == (0.25, 50)
    features, labels = train.features.clone(), train.labels.clone()
    others = torch.ones(200, dtype=torch.bool).index_fill(0, subset, False)
    features[others], labels[others] = 1e6, True
    (same,) = linear_probe(LabelledFeatures(features, labels), val, test, shares=[0.25], seed=3)
    assert torch.equal(same.scores, probe.scores)


def test_a_single_study_and_a_constant_feature_do_no_harm(splits):
    train, val, test = splits
    for part in splits:
        assert part.features.shape[1] == 5
    constant = [
        LabelledFeatures(torch.cat([part.features, torch.full((len(part.features), 1), 0.1)], 1), part.labels)
        for part in splits
    ]
    least, most = linear_probe(*constant, shares=[0.001, 1.0])
    assert least.studies == 1
    assert least.auroc.tolist() == [0.5] * 3
    torch.testing.assert_close(most.auroc, linear_probe(train, val, test, shares=[1.0])[0].auroc)


def test_subsets_are_nested_and_drawn_by_the_seed():
    small, large, whole = nested_subsets(1000, [0.01, 0.1, 1.0], seed=0)
    assert (len(small), len(large)) == (10, 100)
    assert set(small.tolist()) < set(large.tolist())
    assert sorted(whole.tolist()) == list(range(1000))
    assert torch.equal(nested_subsets(1000, [0.1], seed=0)[0], large)
    assert not torch.equal(nested_subsets(1000, [0.1], seed=1)[0], large)
    assert len(nested_subsets(5, [0.01], seed=0)[0]) == 1


def test_the_global_random_state_is_left_alone(splits):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    linear_probe(*splits, shares=[0.1])
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


@pytest.mark.parametrize("shares", [[], [0.0], [0.5, 1.5]])
def test_shares_out_of_range_are_refused(splits, shares):
    with pytest.raises(UserError, match=r"in \(0, 1\]"):
        linear_probe(*splits, shares=shares)


def test_what_does_not_fit_is_refused(splits):
    train, val, test = splits
    with pytest.raises(UserError, match="values of C"):
        linear_probe(train, val, test, strengths=[0.0])
    with pytest.raises(UserError, match="at least one training study"):
        linear_probe(LabelledFeatures(train.features[:0], train.labels[:0]), val, test)
    with pytest.raises(ValueError, match="of one D and F"):
        linear_probe(train, LabelledFeatures(val.features[:, 1:], val.labels), test)
    with pytest.raises(ValueError, match="of one D and F"):
        linear_probe(train, val, LabelledFeatures(test.features[1:], test.labels))
    with pytest.raises(ValueError, match=r"torch\.bool"):
        linear_probe(train, val, LabelledFeatures(test.features, test.labels.long()))
