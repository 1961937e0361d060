"""With whose image each report of the local batch is read again."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError, require, require_count
from hardneg_plugin.functional.hard_negatives import most_similar
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.objectives.batch import EmbeddedBatch

Choice = Literal["nearest", "random", "mean_image", "paired"]

MEAN_IMAGE = -1
"""In `image_order`: the mean of the batch in place of a study's image."""


class ReadReports(Protocol):
    """What a host gives an objective to read its reports with: `token_losses` for one batch."""

    def __call__(
        self, image_order: Tensor | None = None, towards: Tensor | None = None, *, changes: int | None = None
    ) -> TokenLosses:
        """The token losses of all B reports, teacher-forced, attached to the graph.

        Args:
            image_order: `(B,)` int64, whose image each report is read with; `MEAN_IMAGE`: the mean of the batch; `B + i * K + j`:
                the j-th of the K paired studies of study i. None: its own.
            towards: `(B,)` in [0, 1], the part of the way that the other image's features move to those of its own; None: 0.
            changes: read the copies of the reports with this many changed findings instead, with the reports' own images. Nothing
                counts of a report without such a copy. None: the reports.
        """
        ...


@dataclass(frozen=True)
class NegativeImages:
    """Which studies of the local batch lend their images, or their reports.

    Args:
        choice: "nearest": those with the nearest reports by their embeddings; "random"; "mean_image": the mean image of the
            batch, the same for all; "paired": the first k paired studies that come with the batch. Matches are never chosen.
        k: of each study, a positive integer; 1 for the mean image.

    >>> NegativeImages("random", k=4)
    NegativeImages(choice='random', k=4)

    Raises:
        UserError: a value that is not one of these.
    """

    choice: Choice = "nearest"
    k: int = 1

    def __post_init__(self) -> None:
        require(self.choice in get_args(Choice), "choice of negative images", ", ".join(get_args(Choice)), self.choice)
        require_count(self.k, "k of negative images")
        require(self.choice != "mean_image" or self.k == 1, "k of negative images", "1 for mean_image", self.k)

    @torch.no_grad()
    def __call__(self, batch: EmbeddedBatch) -> tuple[Tensor, Tensor]:
        """`index (B, K)` int64, each column an `image_order`, and `valid (B, K)` bool.

        Raises:
            UserError: "paired", and the batch has fewer than k paired studies for each.
        """
        reports, is_match = batch.reports, batch.is_match[:, batch.shards.local]
        if self.choice == "mean_image":
            index = torch.full((len(reports), 1), MEAN_IMAGE, device=reports.device)
            return index, batch.usable[:, None]
        if self.choice == "paired":
            return self._paired(batch)
        if self.choice == "random":
            similarity = torch.rand(is_match.shape, generator=batch.generator(), device=reports.device)
        else:
            similarity = reports @ reports.T
        return most_similar(similarity, is_match, k=self.k)

    def _paired(self, batch: EmbeddedBatch) -> tuple[Tensor, Tensor]:
        found = 0 if batch.paired is None else batch.paired.valid.shape[1]
        if batch.paired is None or found < self.k:
            raise UserError(
                f"choice=paired: expected a batch with {self.k} paired studies per study, but got {found}: choose negatives=paired "
                f"with negatives.k >= {self.k}."
            )
        valid = batch.paired.valid
        places = torch.arange(valid.numel(), device=valid.device).view_as(valid)
        return len(valid) + places[:, : self.k], valid[:, : self.k]
