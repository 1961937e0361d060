"""Training studies together with their hard negatives from a table, for `negatives=paired`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardneg_plugin.data.extended_studies import ExtendedStudies
from hardneg_plugin.data.neighbour_batches import nearest_studies
from hardneg_plugin.data.studies import Sample, Studies
from hardneg_plugin.errors import require_count
from hardneg_plugin.neighbours.table import neighbours_within, read_neighbours

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairedNegatives:
    """Which studies are paired with each training study.

    Args:
        table: file of the nearest other studies of each training study (see `read_neighbours`); read when training starts. None:
            mined then, by the words of the reports.
        k: paired studies per study, >= 1.
        pool: draw them from this many nearest ones, anew in every epoch, >= k; None: take the nearest k.

    Raises:
        UserError: a number is out of its range.
    """

    table: str | Path | None
    k: int = 1
    pool: int | None = None

    def __post_init__(self) -> None:
        require_count(self.k, "data.paired.k", "k >= 1 paired studies per study")
        if self.pool is not None:
            require_count(self.pool, "data.paired.pool", f"a pool >= k = {self.k}", least=self.k)

    def beside(self, studies: Studies) -> "PairedStudies":
        """The studies of a training split, each with k of its neighbours in that split. Warns of gaps in the table.

        Raises:
            UserError: the table is invalid, or has no neighbours within the split.
        """
        pool = self.k if self.pool is None else self.pool
        if self.table is None:
            return PairedStudies(studies, nearest_studies(studies, pool, None, "data.paired.table"), self.k)
        table = read_neighbours(self.table)
        index_of = {study: index for index, study in enumerate(studies.ids)}
        # Before the pool is cut: studies outside the training split take no place in it.
        neighbours = neighbours_within(table, studies.ids, self.table, "data.paired.table")
        named = dict.fromkeys(name for study, row in table.items() for name in (study, *row))
        if unknown := [name for name in named if name not in index_of]:
            _log.warning(
                "%s: %d studies are not in the training split and are left out, such as %r.",
                self.table,
                len(unknown),
                unknown[0],
            )
        if short := [name for name, row in zip(studies.ids, neighbours, strict=True) if len(row) < self.k]:
            _log.warning(
                "%s: %d of %d training studies have fewer than k = %d neighbours there, such as %r.",
                self.table,
                len(short),
                len(studies.ids),
                self.k,
                short[0],
            )
        return PairedStudies(studies, [row[:pool] for row in neighbours], self.k)


class PairedStudies(ExtendedStudies):
    """A `Studies` whose samples have K paired ones under "negatives"; made by `PairedNegatives.beside`.

    A study with fewer neighbours is paired with itself in the free places: it matches itself, so no objective uses it as a
    negative.

    Args:
        studies: the training split.
        neighbours: for each study the indices of the studies that its negatives are drawn from, nearest first.
        k: negatives per study.
    """

    def __init__(self, studies: Studies, neighbours: Sequence[Sequence[int]], k: int) -> None:
        super().__init__(studies)
        self._neighbours, self._k = neighbours, k

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index and its nearest K; with `(index, seed)`, under what the seed draws.

        The seed draws which neighbours they are and, for each, another augmentation than the study's: a shared shift would
        set the two apart from all other studies.
        """
        sample = self._studies[key]
        negatives = [self._studies[paired] for paired in self._draw(key)]
        negatives += [sample] * (self._k - len(negatives))
        return {**sample, "negatives": negatives}

    def _draw(self, key: int | tuple[int, int]) -> list[int] | list[tuple[int, int]]:
        if not isinstance(key, tuple):
            return list(self._neighbours[key][: self._k])
        index, seed = key
        nearest = self._neighbours[index]
        # From both numbers: the seed alone draws the augmentation of the study.
        random = np.random.default_rng((seed, index))
        chosen = np.sort(random.choice(len(nearest), size=min(self._k, len(nearest)), replace=False))
        seeds = random.integers(2**63, size=len(chosen))
        return [(nearest[place], drawn) for place, drawn in zip(chosen.tolist(), seeds.tolist(), strict=True)]
