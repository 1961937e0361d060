"""Directions of vectors: those of F.normalize, but for what has none."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.functional.unit_length import SHORTEST, has_direction, unit_length


def test_it_is_normalize_bit_for_bit_with_its_gradient_where_there_is_a_direction():
    vectors = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) * torch.logspace(-5, 15, 20)[:, None]
    towards = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function in (unit_length, lambda x: F.normalize(x, dim=-1)):
        leaf = vectors.clone().requires_grad_()
        result = function(leaf)
        (result * towards).sum().backward()
        gradients.append((result, leaf.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30, torch.nan, torch.inf, -torch.inf, 1e30, 3e38])
def test_without_a_direction_there_is_no_gradient(value):
    leaf = torch.full((2, 3), value)
    leaf[1] = torch.tensor([3.0, 0.0, 4.0])
    leaf.requires_grad_()
    result = unit_length(leaf)
    result.sum().backward()
    torch.testing.assert_close(result, torch.tensor([[0.0, 0, 0], [0.6, 0, 0.8]]))
    assert (leaf.grad[0] == 0).all()
    assert leaf.grad[1].abs().max() < 1
    assert has_direction(leaf).tolist() == [False, True]


def test_a_gradient_is_at_most_that_of_the_shortest_vector_that_counts():
    leaf = torch.tensor([[0.9 * SHORTEST, 0], [1.1 * SHORTEST, 0]], requires_grad=True)
    unit_length(leaf, SHORTEST)[:, 1].sum().backward()
    assert leaf.grad.abs().sum(1).tolist() == pytest.approx([0, 1 / (1.1 * SHORTEST)], rel=1e-4)


def test_it_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(unit_length, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_the_shortest_that_counts_is_the_length_that_is_given():
    vectors = torch.tensor([[0.5, 0.0], [0.0, 0.4], [3.0, 4.0]])
    assert has_direction(vectors, 0.5).tolist() == [True, False, True]
    assert torch.equal(unit_length(vectors, 0.5), torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.6, 0.8]]))
    short = torch.tensor([[1e-9, 0.0]])
    assert unit_length(short).tolist() == [[1.0, 0.0]]
    assert unit_length(short, SHORTEST).tolist() == [[0.0, 0.0]]
    assert not has_direction(short).item()
