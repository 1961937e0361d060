"""The head: a linear map of features less their running mean, which follows the batches that are finite."""

import pytest
import torch

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.objectives.projection import SHARE, ProjectionHead
from hardneg_plugin.objectives.schedule import TrainingProgress


def running_means(means):
    """By the definition: the mean of all batches and of one of zeros, and from the tenth on a moving average."""
    centre = torch.zeros_like(means[0])
    for count, mean in enumerate(means, start=1):
        share = max(1 / (count + 1), SHARE)
        centre = (1 - share) * centre + share * mean
    return centre


@pytest.mark.parametrize("batches", [1, 2, 9, 10, 25])
def test_centre_is_the_running_mean(batches):
    means = list(torch.randn(batches, 5, generator=torch.Generator().manual_seed(batches)))
    head = ProjectionHead(5, 3, centred=True)
    for mean in means:
        head.follow(mean)
    torch.testing.assert_close(head.centre, running_means(means))
    if batches <= 9:
        torch.testing.assert_close(head.centre, torch.stack(means).sum(0) / (batches + 1))
    features = torch.randn(4, 5)
    torch.testing.assert_close(head(features), (features - head.centre) @ head.weight.T)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_batch_that_is_not_finite_is_passed_over(bad):
    head = ProjectionHead(2, 2, centred=True)
    head.follow(torch.tensor([1.0, 2.0]))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head.follow(torch.tensor([bad, 1.0]))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_without_a_centre_it_is_the_plain_map():
    head = ProjectionHead(5, 3, centred=False)
    head.follow(torch.ones(5))
    features = torch.randn(4, 5)
    torch.testing.assert_close(head(features), features @ head.weight.T)
    assert list(head.state_dict()) == ["weight"]


def reports_alike(studies=64, width=32):
    """Features as a decoder's are at the start: nearly all in common."""
    random = torch.Generator().manual_seed(0)
    common = 5 * torch.randn(width, generator=random)
    images, reports = (common + torch.randn(studies, width, generator=random) for _ in range(2))
    return PairEmbeddings(images=images, reports=reports)


def test_features_that_have_nearly_all_in_common_are_told_apart():
    similarity = {}
    torch.manual_seed(0)
    for centred in (False, True):
        objective = HardNegativeObjective(image_width=32, report_width=32, width=16, centred=centred)
        for _ in range(10):
            objective(reports_alike(), TrainingProgress(step=50, fraction=0.5))
        _, reports = objective.project(reports_alike())
        similarity[centred] = (reports @ reports.T).triu(1).sum().item() / (64 * 63 / 2)
    assert similarity[False] > 0.9
    assert abs(similarity[True]) < 0.2


def test_scoring_does_not_move_the_centre_and_a_checkpoint_keeps_it():
    objective = HardNegativeObjective(image_width=32, report_width=32, width=4)
    objective(reports_alike(), TrainingProgress(step=50, fraction=0.5))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    expected = objective.project(reports_alike())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    again = HardNegativeObjective(image_width=32, report_width=32, width=4)
    again.load_state_dict(before)
    assert all(torch.equal(one, other) for one, other in zip(again.project(reports_alike()), expected, strict=True))
