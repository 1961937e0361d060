"""Batches of neighbours: every study once an epoch, groups of the nearest, the same after a resume and over ranks."""

import numpy as np
import pytest

from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.neighbour_batches import NeighbourBatches, NeighbourShuffle, grouped
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import write_json


def drawn(studies, k, seed=0):
    random = np.random.default_rng(seed)
    return [[one for one in random.permutation(studies).tolist() if one != study][:k] for study in range(studies)]


@pytest.mark.parametrize("studies", [1, 2, 7, 40, 41])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("k", [0, 1, 5, 30])
def test_each_study_comes_once_with_its_nearest_free_neighbours(studies, size, k):
    neighbours, order = drawn(studies, k), np.random.default_rng(1).permutation(studies).tolist()
    groups = grouped(order, neighbours, size)
    assert sorted(study for group in groups for study in group) == list(range(studies))
    assert all(len(group) == size for group in groups[:-1])
    # a plain walk through the order
    free, walked = set(range(studies)), []
    for study in order:
        if study in free:
            near = [one for one in neighbours[study] if one in free and one != study][: size - 1]
            if len(near) == size - 1:
                walked.append([study, *near])
                free -= {study, *near}
    assert groups[: len(walked)] == walked


def test_an_epoch_follows_from_seed_and_epoch_and_the_next_one_differs():
    neighbours = drawn(40, 10)
    epochs = []
    for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0)):
        shuffle = NeighbourShuffle(neighbours, 4, seed)
        shuffle.set_epoch(epoch)
        keys = list(shuffle)
        assert len(shuffle) == len(keys) == 40
        assert sorted(study for study, _ in keys) == list(range(40))
        epochs.append(keys)
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2] != epochs[3] != epochs[0]


@pytest.mark.parametrize("ranks", [2, 3, 11])
@pytest.mark.parametrize("studies", [1, 3, 37, 40, 41])
def test_ranks_get_as_many_studies_in_whole_groups_and_together_every_one(ranks, studies):
    neighbours = drawn(studies, 10)
    shares = []
    for one in range(ranks):
        shuffle = NeighbourShuffle(neighbours, 4, seed=3)
        shuffle.num_replicas, shuffle.rank = ranks, one
        shares.append([study for study, _ in shuffle])
        assert len(shuffle) == len(shares[-1])
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) % 4 == 0
    assert {study for share in shares for study in share} == set(range(studies))
    alone = [study for study, _ in NeighbourShuffle(neighbours, 4, seed=3)]
    of_one = {tuple(alone[start : start + 4]) for start in range(0, studies, 4)}
    groups = [tuple(share[start : start + 4]) for share in shares for start in range(0, len(share), 4)]
    assert all(group in of_one or group[: len(alone) % 4] in of_one for group in groups)


SOURCE = PhantomStudies(train=48, val=2, test=2, size=32)


def data(**options):
    return StudyDataModule(
        SOURCE, WordTokenizer.from_reports, batch_size=8, max_length=40, sampler=NeighbourBatches(**options)
    )


def test_batches_hold_reports_that_are_more_alike():
    def overlap(batches):
        found = []
        for batch in batches:
            words = [set(text.split()) for text in batch["references"]]
            found += [max(len(a & b) / len(a | b) for j, b in enumerate(words) if i != j) for i, a in enumerate(words)]
        return np.mean(found)

    many = PhantomStudies(train=240, val=2, test=2, size=32)
    plain, near = (
        StudyDataModule(many, WordTokenizer.from_reports, batch_size=8, max_length=40, sampler=sampler)
        for sampler in (None, NeighbourBatches(group=4))
    )
    assert overlap(near.train_dataloader()) > overlap(plain.train_dataloader()) + 0.05


def test_neighbours_come_from_a_table_where_one_is_given(tmp_path):
    ids = SOURCE.split("train").ids
    pairs = {study: [ids[place ^ 1]] for place, study in enumerate(ids)}
    write_json(tmp_path / "table.json", pairs)
    near = data(group=2, table=tmp_path / "table.json")
    seen = [study for batch in near.train_dataloader() for study in batch["ids"]]
    assert sorted(seen) == sorted(ids)
    assert all(pairs[a] == [b] for a, b in zip(seen[::2], seen[1::2], strict=True))


def test_a_table_of_other_studies_and_wrong_numbers_are_told(tmp_path):
    write_json(tmp_path / "table.json", {"other": ["one"]})
    with pytest.raises(UserError, match=r"Set sampler\.table to one of this training split"):
        data(table=tmp_path / "table.json").train_dataloader()
    for wrong in ({"group": 1}, {"group": 6, "pool": 4}):
        with pytest.raises(UserError, match="sampler"):
            NeighbourBatches(**wrong)
