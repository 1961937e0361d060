"""Where hard negatives come from: a strategy that, given a batch, finds each study's closest peers."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hard_negatives import match_mask, most_similar, nearest_reports
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.memory import ReportQueue

QUEUE_LIMIT = 65_536
"""Studies in a queue at most; more would be older than a training step can use."""


class NegativeSource(Protocol):
    """What `HardNegativeObjective(negatives=...)` accepts; an `nn.Module` where it has a state to keep."""

    def __call__(self, batch: EmbeddedBatch) -> HardNegatives:
        """Hard negatives of the own studies of a batch."""
        ...


def check_choice(k: int, pool: int | None, ceiling: float) -> None:
    """Raise a UserError where options that all sources share are out of range."""
    if k < 1:
        raise UserError(f"negatives.k: expected at least one hard negative per study, but got {k}.")
    if pool is not None and pool < k:
        raise UserError(f"negatives.pool: expected at least k = {k}, but got {pool}.")
    if not -1 < ceiling <= 1:
        raise UserError(f"negatives.ceiling: expected a cosine above -1 and up to 1, but got {ceiling}.")


@dataclass(frozen=True)
class InBatch:
    """The nearest reports of the batch of all ranks, by report similarity; no second forward, and the gradient reaches them.

    Args:
        k: hard negatives per study, at least 1.
        pool: draw them from this many nearest ones (None: take the nearest).
        ceiling: a report with a cosine above this to the own one counts as a match, in (-1, 1].
    """

    k: int = 1
    pool: int | None = None
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.k, self.pool, self.ceiling)

    def __call__(self, batch: EmbeddedBatch) -> HardNegatives:
        """The k nearest reports of the batch that are no matches, with their images."""
        index, valid = nearest_reports(
            batch.reports,
            batch.all_reports,
            batch.is_match,
            k=self.k,
            pool=self.pool,
            ceiling=self.ceiling,
            generator=batch.generator(),
        )
        return HardNegatives(reports=batch.all_reports[index], images=batch.all_images[index], valid=valid, index=index)


class Queue(nn.Module):
    """The nearest reports of the batch and of the latest `size` studies before it, whose embeddings are as old as they are.

    The way to more negatives than a batch holds. While the queue fills, it is searched as far as it goes. A study's own
    earlier embedding is a match, so studies must have ids. The gradient reaches the batch's embeddings, not the queue's.

    Args:
        size: studies kept, 1 to 65,536; each takes 8 D + 32 bytes, for embeddings of width D.
        k, pool, ceiling: as of `InBatch`.
    """

    def __init__(self, size: int = 1024, k: int = 1, pool: int | None = None, ceiling: float = 1.0) -> None:
        super().__init__()
        if not 1 <= size <= QUEUE_LIMIT:
            raise UserError(f"negatives.size: expected 1 to {QUEUE_LIMIT} studies in the queue, but got {size}.")
        check_choice(k, pool, ceiling)
        self.k, self.pool, self.ceiling = k, pool, ceiling
        self.queue = ReportQueue(size)

    def forward(self, batch: EmbeddedBatch) -> HardNegatives:
        """The k nearest reports of batch and queue that are no matches, with their images; then the batch joins the queue."""
        batch.keys.require_study_ids("negatives=queue")
        is_match = batch.is_match
        with torch.no_grad():
            similarity = batch.reports @ batch.all_reports.T
            if len(self.queue):
                images, reports, keys = self.queue.entries()
                similarity = torch.cat([similarity, batch.reports @ reports.T], dim=1)
                is_match = torch.cat([is_match, match_mask(batch.keys.columns, keys)], dim=1)
        index, valid = most_similar(
            similarity, is_match, k=self.k, pool=self.pool, ceiling=self.ceiling, generator=batch.generator()
        )
        in_batch = index < len(batch.all_reports)
        here = index.where(in_batch, 0)
        found = HardNegatives(batch.all_reports[here], batch.all_images[here], valid & in_batch, here)
        if len(self.queue):
            there = (index - len(batch.all_reports)).clamp_min(0)
            found = found.filled_up(HardNegatives(reports[there], images[there], valid & ~in_batch))
        self.queue.push(batch.all_images, batch.all_reports, batch.all_keys.columns)
        return found


@dataclass(frozen=True)
class Paired:
    """The mined studies that the batch carries: the host encodes them too, at about twice the cost, as in the released code.

    `embed` gives them as `PairEmbeddings.negatives`, k rows per study. Those that match their study are left out.

    Args:
        k: hard negatives per study, at least 1.
    """

    k: int = 1

    def __post_init__(self) -> None:
        check_choice(self.k, None, 1.0)

    def __call__(self, batch: EmbeddedBatch) -> HardNegatives:
        """The batch's own hard negatives."""
        if batch.paired is None:
            raise UserError(
                "negatives=paired needs a batch that carries mined studies: give them as PairEmbeddings(negatives=...)."
            )
        if batch.paired.reports.shape[1] != self.k:
            raise UserError(
                f"negatives.k: expected {self.k} mined studies per study, but the batch carries "
                f"{batch.paired.reports.shape[1]}."
            )
        return batch.paired
