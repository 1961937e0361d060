"""Means over what counts, in loops."""

import pytest
import torch

from hardneg_plugin.functional.pooling import masked_mean, mean_where

MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_masked_mean_is_over_the_positions_that_count_whatever_the_others_hold(dtype):
    features = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(4, 3)
    for i in range(4):
        kept = [features[i, t] for t in range(4) if MASK[i, t]]
        expected[i] = sum(kept) / len(kept) if kept else 0
    for filling in (0.0, torch.nan, torch.inf):
        filled = features.masked_fill(MASK[:, :, None] == 0, filling)
        torch.testing.assert_close(masked_mean(filled, MASK.to(dtype)), expected)


def test_the_gradient_reaches_what_counts_alone():
    features = torch.full((4, 4, 1), torch.nan).masked_fill(MASK[:, :, None] == 1, 2.0).requires_grad_()
    masked_mean(features, MASK).sum().backward()
    shares = MASK / MASK.sum(1, keepdim=True).clamp_min(1)
    assert torch.equal(features.grad[:, :, 0], shares)


@pytest.mark.parametrize(
    ("features", "mask"), [((2, 3), (2, 3)), ((2, 3, 4), (2, 4)), ((2, 3, 4), (3,)), ((2, 3, 4, 5), (2, 3))]
)
def test_shapes_that_do_not_fit_are_told(features, mask):
    with pytest.raises(ValueError, match=r"`features` of shape \(B, T, D\)"):
        masked_mean(torch.zeros(features), torch.ones(mask))


def test_a_mean_over_the_last_dimension():
    values = torch.tensor([[1.0, 2.0, 6.0], [5.0, 7.0, 9.0]])
    assert mean_where(values, None).tolist() == [3.0, 7.0]
    assert mean_where(values, torch.tensor([[True, False, True], [False, True, False]])).tolist() == [3.5, 7.0]
    assert mean_where(values, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0.0, 0.0]
