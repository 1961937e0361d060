"""Where hard negatives come from: a strategy that, given a batch, finds each study's closest peers."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.mining import nearest_reports


@dataclass(frozen=True)
class HardNegatives:
    """K hard negatives of each of B studies."""

    reports: Tensor
    """`(B, K, D)` report embeddings n, unit length."""
    images: Tensor | None
    """`(B, K, D)` image embeddings z' of the same studies, where the source knows them."""
    valid: Tensor
    """`(B, K)` bool; False where a study has fewer than K."""


class NegativeSource(Protocol):
    """What `HardNegativeObjective(negatives=...)` accepts."""

    def __call__(self, images: Tensor, reports: Tensor, is_match: Tensor) -> HardNegatives:
        """Hard negatives of a batch: unit embeddings `(B, D)`, `is_match (B, B)` bool."""
        ...


@dataclass(frozen=True)
class InBatch:
    """The nearest reports of the same batch, by report similarity; no second forward, and the gradient reaches them.

    Args:
        k: hard negatives per study, at least 1.
        pool: draw them from this many nearest ones (None: take the nearest).
        ceiling: a report with a cosine above this to the own one counts as a match, in (-1, 1].
    """

    k: int = 1
    pool: int | None = None
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"negatives.k: expected at least one hard negative per study, but got {self.k}.")
        if self.pool is not None and self.pool < self.k:
            raise UserError(f"negatives.pool: expected at least k = {self.k}, but got {self.pool}.")
        if not -1 < self.ceiling <= 1:
            raise UserError(f"negatives.ceiling: expected a cosine above -1 and up to 1, but got {self.ceiling}.")

    def __call__(self, images: Tensor, reports: Tensor, is_match: Tensor) -> HardNegatives:
        """The k nearest reports of the batch that are no matches, with their images."""
        # a study is no negative of itself even where its id is unknown
        is_match = is_match.clone().fill_diagonal_(True)
        index, valid = nearest_reports(reports, reports, is_match, k=self.k, pool=self.pool, ceiling=self.ceiling)
        return HardNegatives(reports=reports[index], images=images[index], valid=valid)
