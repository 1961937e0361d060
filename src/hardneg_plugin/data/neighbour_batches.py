"""Training batches made of groups of studies with similar reports: hard negatives inside the batch, at no cost per step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from hardneg_plugin.data.studies import Studies
from hardneg_plugin.distributed import rank, world_size
from hardneg_plugin.errors import require_count
from hardneg_plugin.neighbours.embedders import TfidfEmbedder, embed
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule
from hardneg_plugin.neighbours.table import neighbours_within, read_neighbours


def grouped(order: Sequence[int], neighbours: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Each study once, in groups of a study and its nearest neighbours that no earlier group has taken.

    A study whose neighbours are all taken is left over; those left over form groups in their order, and the last may be smaller.

    Args:
        order: the studies, in which they take their neighbours.
        neighbours: of each study, nearest first.
        size: of a group, >= 1.

    >>> grouped([0, 1, 2, 3], [[2], [3], [0], [1]], 2)
    [[0, 2], [1, 3]]
    """
    taken: set[int] = set()
    groups, left_over = [], []
    for study in order:
        if study in taken:
            continue
        free = [one for one in neighbours[study] if one not in taken and one != study][: size - 1]
        if len(free) < size - 1:
            left_over.append(study)
            continue
        groups.append([study, *free])
        taken.update(groups[-1])
    # those left over early may have been taken as neighbours since
    alone = [study for study in left_over if study not in taken]
    return groups + [alone[start : start + size] for start in range(0, len(alone), size)]


class NeighbourShuffle(DistributedSampler[tuple[int, int]]):
    """`SeededShuffle` in groups of neighbours that follow each other; a batch holds whole groups where their size divides its own.

    Groups are made and shuffled anew in each epoch, from `(seed, epoch)` alone. Each rank gets every n-th group. All ranks get as
    many studies: some come twice where their number does not divide. Lightning leaves a distributed sampler as it is.

    Args:
        neighbours: of each study, nearest first.
        size: of a group, >= 1.
        seed: >= 0.
    """

    def __init__(self, neighbours: Sequence[Sequence[int]], size: int, seed: int = 0) -> None:
        require_count(size, "sampler: size of a group")
        require_count(seed, "sampler: seed", "an integer >= 0", least=0)
        super().__init__(neighbours, num_replicas=world_size(), rank=rank(), seed=seed)  # type: ignore[arg-type]
        self.neighbours, self.size = neighbours, size

    def __len__(self) -> int:
        groups = -(-len(self.neighbours) // self.size)
        return len(self.neighbours) if self.num_replicas == 1 else -(-groups // self.num_replicas) * self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        studies = len(self.neighbours)
        random = np.random.default_rng((self.seed, self.epoch))  # as of SeededShuffle
        order, seeds = random.permutation(studies), random.integers(2**63, size=studies)
        groups = grouped(order.tolist(), self.neighbours, self.size)
        whole, rest = [group for group in groups if len(group) == self.size], groups[-1:]
        whole = [whole[place] for place in random.permutation(len(whole))]
        ordered = whole + [group for group in rest if len(group) < self.size]
        if self.num_replicas > 1 and ordered:
            # ranks with unequal numbers of studies would wait for each other
            places = islice(cycle(order.tolist()), self.size - len(ordered[-1]))
            ordered[-1] = [*ordered[-1], *places]
            ordered = list(islice(cycle(ordered), -(-len(ordered) // self.num_replicas) * self.num_replicas))
        own = ordered[self.rank :: self.num_replicas]
        return iter([(study, int(seeds[study])) for group in own for study in group])


@dataclass(frozen=True)
class NeighbourBatches:
    """How training batches are composed of neighbours.

    Args:
        group: studies of a group, each with its nearest neighbours, >= 2; it should divide the batch size.
        pool: neighbours of each study that are considered, >= group - 1. More of them find a group for more studies.
        table: of neighbours, as `hardneg-mine` writes it; None: mined at the start by the words of the reports.

    >>> NeighbourBatches(group=4)
    NeighbourBatches(group=4, pool=30, table=None)

    Raises:
        UserError: a number out of its range.
    """

    group: int = 4
    pool: int = 30
    table: str | Path | None = None

    def __post_init__(self) -> None:
        require_count(self.group, "sampler.group", "an integer >= 2", least=2)
        least = self.group - 1
        require_count(self.pool, "sampler.pool", f"an integer >= group - 1 = {least}", least=least)

    def shuffle(self, studies: Studies, seed: int) -> NeighbourShuffle:
        """The order of the training studies.

        Args:
            studies: the training split.
            seed: >= 0.

        Raises:
            UserError: the table cannot be read, or is of other studies.
        """
        neighbours = nearest_studies(studies, self.pool, self.table, "sampler.table")
        return NeighbourShuffle(neighbours, self.group, seed)


def nearest_studies(studies: Studies, k: int, table: str | Path | None, setting: str) -> list[list[int]]:
    """The k nearest other studies of each training study that are no matches, as places in the split, nearest first.

    Args:
        studies: the training split.
        k: >= 1; a study may have fewer.
        table: of neighbours, as `hardneg-mine` writes it; None: mined by the words of the reports.
        setting: that names the table, for messages.

    Raises:
        UserError: the table cannot be read, or is of other studies.
    """
    if table is None:
        rule = NeighbourRule(groups_of(studies.reports, studies.patients, studies.labels), k=k)
        index: NDArray[np.int64] = ChunkedSearch()(embed(TfidfEmbedder(), studies.reports), rule).index
        return [[one for one in row if one >= 0] for row in index.tolist()]
    return [row[:k] for row in neighbours_within(read_neighbours(table), studies.ids, table, setting)]
