"""A queue with batches of a single study, and its size."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import EmbeddedBatch, Queue
from hardneg_plugin.objectives.schedule import TrainingProgress


def batch_of(numbers):
    images, reports = torch.stack(
        [torch.randn(2, 4, generator=torch.Generator().manual_seed(number)) for number in numbers], dim=1
    )
    keys, shards = MatchKeys.of(len(numbers), study_ids=numbers), Shards(0, (len(numbers),))
    return EmbeddedBatch(F.normalize(images, dim=-1), F.normalize(reports, dim=-1), keys, shards, TrainingProgress())


def single(number):
    return batch_of([number])


def test_a_single_study_finds_the_nearest_before_it():
    source, seen = Queue(size=3), []
    for number in (0, 0, 1, 2, 3, 4, 1):
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


def test_negatives_of_the_batch_have_places_in_it_and_earlier_ones_have_none():
    source = Queue(size=8, k=6)
    source(batch_of([0, 1, 2, 3]))
    batch = batch_of([4, 5, 6])
    found = source(batch)
    assert found.valid.all()
    for i in range(3):
        for report, place in zip(found.reports[i], found.places[i].tolist(), strict=True):
            assert [j for j in range(3) if torch.equal(batch.reports[j], report)] == [place] * (place >= 0)
        assert sorted(found.places[i].tolist()) == [-1] * 4 + [j for j in range(3) if j != i]


@pytest.mark.parametrize("size", [0, 65_537, 2.5, True])
def test_its_size_is_named_as_the_setting_is(size):
    with pytest.raises(UserError, match=r"negatives\.size: expected an integer in \[1, 65536\]"):
        Queue(size=size)
