"""Separation of images, study by study in loops."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.objectives import Absolute, Hinge


@pytest.mark.parametrize(
    ("separation", "of_cosine"),
    [
        (Hinge(), lambda cosine: max(0.0, cosine)),
        (Hinge(margin=-0.4), lambda cosine: max(0.0, cosine + 0.4)),
        (Absolute(), abs),
    ],
    ids=["hinge", "hinge with a margin", "absolute"],
)
def test_the_mean_is_over_the_negatives_that_count(separation, of_cosine):
    random = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(4, 5, generator=random), dim=-1)
    negatives = F.normalize(torch.randn(4, 3, 5, generator=random), dim=-1)
    valid = torch.tensor([[True] * 3, [True, False, True], [False, False, True], [False] * 3])
    found = separation(images, negatives, valid)
    for i in range(4):
        values = [of_cosine(float(images[i] @ negatives[i, j])) for j in range(3) if valid[i, j]]
        assert found[i].item() == pytest.approx(sum(values) / max(len(values), 1), abs=1e-6)
