"""How features of a host become one vector per study, and parts."""

import pytest
import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.feature_pooling import parts, pool


def test_pooling_is_a_mean_over_what_counts():
    random = torch.Generator().manual_seed(0)
    flat, words, maps = (torch.randn(shape, generator=random) for shape in [(2, 3), (2, 4, 3), (2, 3, 4, 5)])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert pool(flat, None, "image") is flat
    assert torch.allclose(pool(words, None, "report"), torch.stack([sum(row) / 4 for row in words]))
    expected = torch.stack([(words[0, 0] + words[0, 1]) / 2, (words[1, 1] + words[1, 2] + words[1, 3]) / 3])
    for kind in (mask, mask.bool(), mask.float()):
        assert torch.allclose(pool(words, kind, "report"), expected)
    assert torch.allclose(pool(maps, None, "image"), sum(maps[:, :, i, j] for i in range(4) for j in range(5)) / 20)


@pytest.mark.parametrize(
    ("features", "mask", "message"),
    [
        (torch.zeros(2), None, r"\(B, C, H, W\), but got \(2,\): give a callable.*reports=lambda batch, outputs"),
        (torch.zeros(2, 3, 4, 5, 6), None, r"but got \(2, 3, 4, 5, 6\)"),
        (torch.zeros(2, 3, dtype=torch.int64), None, r"tensor of floats, but got a tensor \(2, 3\) of int64"),
        ((torch.zeros(2, 3),), None, r"but got a tuple: pick out of it by a key or an index"),
        (torch.zeros(2, 5, 3), torch.ones(2, 6), r"has 6 positions, but the features \(2, 5, 3\) have 5.*\[:, 1:\]"),
        (torch.zeros(2, 5, 3), torch.ones(3, 5), r"Expected report_mask \(2, 5\).*got a tensor \(3, 5\) of float32"),
        (torch.zeros(2, 5, 3), [1, 2], r"Expected report_mask \(2, 5\).*got a list"),
        (torch.zeros(2, 3), torch.ones(2, 3), r"report_mask goes with features \(B, T, D\), but they are \(2, 3\)"),
    ],
)
def test_what_cannot_be_pooled_is_told_with_its_shape_and_the_remedy(features, mask, message):
    with pytest.raises(UserError, match=message):
        pool(features, mask, "report")


def test_what_is_pooled_is_handed_on_in_parts():
    random = torch.Generator().manual_seed(0)
    flat, words, maps = (torch.randn(shape, generator=random) for shape in [(2, 3), (2, 4, 3), (2, 3, 4, 5)])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert parts(flat, None) == (None, None)
    assert parts(words, None) == (words, None)
    assert parts(words, mask)[1].equal(mask.bool())
    regions, none = parts(maps, None)
    assert none is None
    assert regions.shape == (2, 20, 3)
    assert regions[1, 7].equal(maps[1, :, 1, 2])
