import math

import pytest
import torch
from torch import nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.head_training import HeadTraining, Standardise, seeded, train_head


def fitted(scores, **settings):
    """A line fitted to a line, told these scores after each epoch; with the weights that it had after each."""
    with seeded(0):
        head = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 10)[:, None]
    told, weights, batches = iter(scores), [], []

    def loss(rows):
        batches.append(rows.tolist())
        return (head(x[rows]) - 3 * x[rows]).square()[:, 0]

    def score():
        assert not head.training
        assert not torch.is_grad_enabled()
        weights.append(head.weight.item())
        return next(told)

    how = HeadTraining(epochs=len(scores), batch_size=4, **settings)
    return train_head(head, len(x), loss, score, how), weights, batches


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [
        ([0.1, 0.4, 0.2], 2),
        ([0.4, 0.4, 0.2], 2),  # of equals the last
        ([0.1, math.nan, 0.05], 1),
        ([math.nan, math.nan, math.nan], 3),
        ([math.nan, -5.0, math.nan], 2),
    ],
)
def test_the_best_epoch_is_kept(scores, epoch):
    result, weights, _ = fitted(scores)
    assert result.epoch == epoch
    assert result.head.weight.item() == weights[epoch - 1]
    assert len(set(weights)) == 3
    assert str(result.scores) == str(tuple(scores))
    assert not result.head.training


def test_training_approaches_the_optimum():
    result, _, _ = fitted(range(200), lr=0.1, weight_decay=0.0)
    assert result.head.weight.item() == pytest.approx(3, abs=0.01)


def test_every_epoch_sees_every_row_once_in_an_order_of_the_seed():
    batches = fitted([0, 0])[2]
    first, second = ([row for rows in some for row in rows] for some in (batches[:3], batches[3:]))
    assert [len(rows) for rows in batches] == [4, 4, 2] * 2
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batches == fitted([0, 0])[2]
    assert batches != fitted([0, 0], seed=1)[2]


def test_seeded_draws_are_the_seeds_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1):
        assert torch.equal(torch.rand(3), inside)
    assert not torch.equal(inside, expected)


def test_standardise_by_what_it_was_made_of():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1, 100]) + 7
    features = torch.cat([features, torch.full((50, 1), 0.1)], dim=1)
    standardise = Standardise(features)
    ours = standardise(features[:, None]).squeeze(1)
    assert ours[:, :3].mean(0).tolist() == pytest.approx([0] * 3, abs=1e-4)
    assert ours[:, :3].std(0, correction=0).tolist() == pytest.approx([1] * 3, abs=1e-4)
    assert ours[:, 3].abs().max() < 1e-6  # constant, but for rounding
    assert standardise(torch.full((1, 4), 0.1))[0, 3].abs() < 1e-6
    assert set(standardise.state_dict()) == {"mean", "std"}
    assert not list(standardise.parameters())


def test_a_channel_that_varies_by_rounding_only_is_constant():
    features = torch.tensor([[7.0], [7.0000005]])
    assert features[0] != features[1]
    assert Standardise(features)(features).abs().max() < 1e-5


def test_standardise_made_of_nothing_changes_nothing():
    features = torch.randn(4, 3)
    assert torch.equal(Standardise(features[:0])(features), features)


def test_settings_out_of_range_are_refused():
    for name, number in (("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("weight_decay", -0.1)):
        with pytest.raises(UserError, match=name):
            HeadTraining(**{name: number})
    with pytest.raises(UserError, match="at least one study"):
        train_head(nn.Linear(1, 1), 0, torch.zeros_like, float, HeadTraining())
