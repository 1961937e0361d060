"""A queue with batches of a single study, and its size."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import EmbeddedBatch, Queue
from hardneg_plugin.objectives.schedule import TrainingProgress


def single(number):
    images, reports = F.normalize(torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(number)), dim=-1)
    return EmbeddedBatch(images, reports, MatchKeys.of(1, study_ids=[number]), Shards(0, (1,)), TrainingProgress())


def test_a_single_study_finds_the_nearest_before_it():
    source, seen = Queue(size=3), []
    for number in (0, 1, 2, 3, 4, 1):
        batch = single(number)
        found = source(batch)
        others = [other for other in seen[-3:] if other != number]
        assert found.valid.tolist() == [[bool(others)]]
        if others:
            nearest = max(others, key=lambda other, batch=batch: float(batch.reports[0] @ single(other).reports[0]))
            torch.testing.assert_close(found.reports[0], single(nearest).reports)
            torch.testing.assert_close(found.images[0], single(nearest).images)
            assert found.places.tolist() == [[-1]]  # not in the batch
        seen.append(number)


@pytest.mark.parametrize("size", [0, 65_537, 2.5, True])
def test_its_size_is_named_as_the_setting_is(size):
    with pytest.raises(UserError, match=r"negatives\.size: expected an integer in \[1, 65536\]"):
        Queue(size=size)
