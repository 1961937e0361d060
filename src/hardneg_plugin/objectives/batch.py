"""One step's embeddings as the objective's parts see them: own studies, those of all ranks, and which pairs match."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hardneg_plugin.distributed import Shards
from hardneg_plugin.functional.hard_negatives import match_mask
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives.schedule import TrainingProgress


@dataclass(frozen=True)
class HardNegatives:
    """K hard negatives of each of B studies."""

    reports: Tensor
    """`(B, K, D)` report embeddings n, unit length."""
    images: Tensor | None
    """`(B, K, D)` image embeddings z' of the same studies, where the source knows them."""
    valid: Tensor
    """`(B, K)` bool; False where a study has fewer than K."""
    index: Tensor | None = None
    """`(B, K)` int64, which of the studies of all ranks they are; -1: none of this step's. None: none of them is."""

    def filled_up(self, others: "HardNegatives") -> "HardNegatives":
        """These, and others of the same shape where these are not valid."""
        chosen = self.valid[:, :, None]
        images = None
        if self.images is not None and others.images is not None:
            images = torch.where(chosen, self.images, others.images)
        return HardNegatives(
            torch.where(chosen, self.reports, others.reports),
            images,
            self.valid | others.valid,
            torch.where(self.valid, self.places, others.places),
        )

    @property
    def places(self) -> Tensor:
        """`index`, -1 throughout where there is none."""
        return torch.full_like(self.valid, -1, dtype=torch.int64) if self.index is None else self.index


@dataclass(frozen=True)
class EmbeddedBatch:
    """Unit-length float32 embeddings of one step: B own studies, N of all ranks in the ranks' order."""

    all_images: Tensor
    """`(N, D)`, attached to the graph."""
    all_reports: Tensor
    """`(N, D)`, attached to the graph."""
    all_keys: MatchKeys
    """Of the N."""
    shards: Shards
    """How the N are spread over the ranks."""
    progress: TrainingProgress
    """Where training stands."""
    paired: HardNegatives | None = None
    """Hard negatives of the own studies that came with the batch."""

    @property
    def images(self) -> Tensor:
        """`(B, D)`, the own ones."""
        return self.all_images[self.shards.local]

    @property
    def reports(self) -> Tensor:
        """`(B, D)`, the own ones."""
        return self.all_reports[self.shards.local]

    @property
    def keys(self) -> MatchKeys:
        """Those of the local studies."""
        return self.all_keys[self.shards.local]

    @cached_property
    def is_match(self) -> Tensor:
        """`(B, N)` bool: which of all studies match an own one; each matches itself, though its id be unknown."""
        is_match = match_mask(self.keys.columns, self.all_keys.columns)
        is_match.diagonal(self.shards.local.start).fill_(True)
        return is_match

    def generator(self) -> torch.Generator:
        """Random numbers of this step that neither move the global generator nor depend on what ran before it.

        A host draws the dropout that it draws without the plug-in, and a resumed run what an unbroken one does.
        """
        seed = (torch.initial_seed() * 1_000_003 + self.progress.step * 10_007 + self.shards.rank) % 2**63
        return torch.Generator(self.all_reports.device).manual_seed(seed)
