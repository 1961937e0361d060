"""Sources of hard negatives: strategies that find those of each study of a batch."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from hardneg_plugin.errors import UserError, require_count, require_number
from hardneg_plugin.functional.hard_negatives import match_mask, most_similar, nearest_reports
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.memory import ReportQueue

QUEUE_LIMIT = 65_536
"""Most studies in a queue; older ones would be of no use to a training step."""


class NegativeSource(Protocol):
    """What `HardNegativeObjective(negatives=...)` accepts; an `nn.Module` where it has a state to keep."""

    def __call__(self, batch: EmbeddedBatch) -> HardNegatives:
        """Hard negatives of the local studies of a batch."""
        ...


@dataclass(frozen=True)
class InBatch:
    """The nearest reports in the batch of all ranks; no second forward, and the gradient reaches them.

    Args:
        k: hard negatives per study, a positive integer.
        pool: draw them from this many nearest ones, >= k; None: take the nearest.
        ceiling: a report with a cosine to the positive above this counts as a match, in (-1, 1].

    >>> from hardneg_plugin import HardNegativeObjective
    >>> objective = HardNegativeObjective(negatives=InBatch(k=2, pool=8))
    """

    k: int = 1
    pool: int | None = None
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.k, "negatives.k")
        if self.pool is not None:
            require_count(self.pool, "negatives.pool", f"an integer >= k = {self.k}", least=self.k)
        require_number(self.ceiling, "negatives.ceiling", "a cosine in (-1, 1]", above=-1, most=1)

    def __call__(self, batch: EmbeddedBatch) -> HardNegatives:
        """The k nearest reports of the batch that are no matches, and their images."""
        index, valid = nearest_reports(
            batch.reports, batch.all_reports, batch.is_match, **vars(self), generator=batch.generator()
        )
        return HardNegatives(reports=batch.all_reports[index], images=batch.all_images[index], valid=valid, index=index)


class Queue(nn.Module):
    """The nearest reports of the batch and of the latest `size` studies before it, with the embeddings that these had then.

    A study's earlier embedding is a match, so studies must have ids. The gradient reaches the batch, but not the queue.

    Args:
        size: studies kept, in [1, 65536]; each takes 8 D + 32 bytes, for embeddings of width D.
        k, pool, ceiling: as of `InBatch`.

    >>> from hardneg_plugin import HardNegativeObjective
    >>> objective = HardNegativeObjective(negatives=Queue(size=4096))
    """

    def __init__(self, size: int = 1024, k: int = 1, pool: int | None = None, ceiling: float = 1.0) -> None:
        super().__init__()
        expected = f"an integer in [1, {QUEUE_LIMIT}]"
        require_number(size, "negatives.size", expected, least=1, most=QUEUE_LIMIT, whole=True)
        self.choice = vars(InBatch(k, pool, ceiling))
        self.queue = ReportQueue(size)

    def forward(self, batch: EmbeddedBatch) -> HardNegatives:
        """The k nearest reports of batch and queue that are no matches, and their images; then the batch joins the queue."""
        batch.keys.require_study_ids("negatives=queue")
        is_match = batch.is_match
        with torch.no_grad():
            similarity = batch.reports @ batch.all_reports.T
            if len(self.queue):
                images, reports, keys = self.queue.entries(batch.reports.device)
                similarity = torch.cat([similarity, batch.reports @ reports.T], dim=1)
                unwanted = match_mask(batch.keys.columns, keys) | ~self.queue.filled() | ~batch.usable[:, None]
                is_match = torch.cat([is_match, unwanted], dim=1)
        index, valid = most_similar(similarity, is_match, **self.choice, generator=batch.generator())
        in_batch = index < len(batch.all_reports)
        here = index.where(in_batch, 0)
        found = HardNegatives(batch.all_reports[here], batch.all_images[here], valid & in_batch, here)
        if len(self.queue):
            there = (index - len(batch.all_reports)).clamp_min(0)
            found = found.filled_up(HardNegatives(reports[there], images[there], valid & ~in_batch))
        self.queue.push(batch.all_images, batch.all_reports, batch.all_keys.columns, batch.all_usable)
        return found


@dataclass(frozen=True)
class Paired:
    """Paired studies, mined beforehand: the host encodes them too, at about twice the cost, as in the released code.

    `embed` gives them as `PairEmbeddings.negatives`, k rows per study. Those that match their study are left out.

    Args:
        k: hard negatives per study, a positive integer.

    >>> from hardneg_plugin import HardNegativeObjective
    >>> HardNegativeObjective(negatives=Paired(k=2)).negatives
    Paired(k=2)
    """

    k: int = 1

    def __post_init__(self) -> None:
        require_count(self.k, "negatives.k")

    def __call__(self, batch: EmbeddedBatch) -> HardNegatives:
        """The paired studies of the batch."""
        if batch.paired is None:
            raise UserError(
                "negatives=paired needs a batch with paired studies: give them as PairEmbeddings(negatives=...)."
            )
        if batch.paired.reports.shape[1] != self.k:
            raise UserError(
                f"negatives.k: expected a batch with {self.k} paired studies per study, but got {batch.paired.reports.shape[1]}."
            )
        return batch.paired
