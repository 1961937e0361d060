"""What each of several processes takes of a split."""

from types import SimpleNamespace

import pytest
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DataLoader

from hardneg_plugin.apps.shared.ranks import share_of
from hardneg_plugin.data.datamodule import SeededShuffle


@pytest.mark.parametrize(("studies", "ranks"), [(9, 1), (9, 2), (8, 2), (1, 3), (12, 5)])
def test_ranks_share_the_batches_of_one_process_whole(studies, ranks):
    loader = DataLoader(range(studies), batch_size=4, collate_fn=tuple)
    whole = list(loader)
    shares = [list(share_of(loader, SimpleNamespace(global_rank=rank, world_size=ranks))) for rank in range(ranks)]
    assert {batch for share in shares for batch in share} == set(whole)
    assert {len(share) for share in shares} == {-(-len(whole) // ranks)}
    if ranks == 1:
        assert shares == [whole]


def test_an_empty_split_is_an_empty_share():
    trainer = SimpleNamespace(global_rank=1, world_size=2)
    assert list(share_of(DataLoader([], batch_size=4, collate_fn=tuple), trainer)) == []


def test_two_and_four_processes_train_on_the_same_studies_in_a_step_and_one_on_others():
    def steps(ranks):
        orders = []
        for rank in range(ranks):
            order = SeededShuffle(24, seed=3)
            if ranks > 1:  # as Lightning does
                order = DistributedSamplerWrapper(order, num_replicas=ranks, rank=rank, shuffle=True, seed=3)
            order.set_epoch(2)
            orders.append(list(order))
        size = 8 // ranks
        return [{key for order in orders for key in order[i : i + size]} for i in range(0, 24 // ranks, size)]

    assert steps(2) == steps(4)
    assert steps(1) != steps(2)  # docs/SCALING.md
