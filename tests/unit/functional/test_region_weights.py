"""Regions as weights over patches, against counting on a fine raster."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.functional.region_weights import box_weights, by_view, cell_weights


@pytest.mark.parametrize(("grid", "cells"), [((6, 6), (3, 3)), ((7, 5), (3, 2)), ((3, 3), (3, 3)), ((2, 3), (4, 4))])
def test_cells_average_as_adaptive_pooling_does(grid, cells):
    features = torch.randn(2, 4, *grid, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool2d(features, cells).flatten(2).mT
    torch.testing.assert_close(cell_weights(grid, cells) @ features.flatten(2).mT, expected)


def test_boxes_cover_patches_by_area():
    random = np.random.default_rng(0)
    fine = 420  # a multiple of both sides
    for _ in range(20):
        top, left = random.integers(0, fine - 1, 2)
        bottom, right = random.integers(top + 1, fine + 1), random.integers(left + 1, fine + 1)
        raster = np.zeros((fine, fine))
        raster[top:bottom, left:right] = 1
        area = raster.reshape(5, fine // 5, 7, fine // 7).sum((1, 3)).ravel()
        found = box_weights(torch.tensor([top, left, bottom, right], dtype=torch.float64) / fine, (5, 7))
        assert found.numpy() == pytest.approx(area / area.sum())


@pytest.mark.parametrize(
    "box", [[float("nan")] * 4, [0.5, 0.5, 0.5, 0.9], [1.2, 0.1, 1.6, 0.5], [0.7, 0.1, 0.2, 0.5]], ids=str
)
def test_a_box_that_covers_nothing_weighs_nothing(box):
    assert box_weights(torch.tensor(box), (3, 3)).tolist() == [0.0] * 9


def test_what_lies_outside_is_left_out():
    outside, inside = torch.tensor([[-0.5, 0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0]])
    assert torch.equal(box_weights(outside, (2, 2)), box_weights(inside, (2, 2)))


def test_regions_of_a_view_stay_within_it():
    weights = by_view(cell_weights((2, 2), (1, 2)), 3)
    assert weights.shape == (6, 12)
    for view in range(3):
        own = weights[2 * view : 2 * view + 2]
        assert torch.equal(own[:, 4 * view : 4 * view + 4], cell_weights((2, 2), (1, 2)))
        assert own.sum() == 2
