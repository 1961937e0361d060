"""A split of studies as a frozen model sees it, beside what is known of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardneg_plugin.data.phantom.studies import PhantomSplit
from hardneg_plugin.data.studies import Studies
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.frozen_features import FrozenFeatures
from hardneg_plugin.knowledge import Knowledge


@dataclass(frozen=True)
class EncodedSplit:
    """N studies and their features."""

    studies: Studies
    features: FrozenFeatures

    def labels(self, knowledge: Knowledge) -> Tensor:
        """Which entities each study has, `(N, F)` in the order of `entity_names`: 1, 0, or -1 where the report leaves it open."""
        rows = [row for row, prompt in enumerate(knowledge.prompts) if prompt.position is None]
        return torch.tensor([knowledge.facts(report) for report in self.studies.reports])[:, rows]

    @property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Of the images and of the reports, `(N, D)` each.

        Raises:
            UserError: the model has no space that they share.
        """
        if self.features.images is None or self.features.reports is None:
            raise UserError(
                "This task needs a space that texts and images share, but this run is of the bare host: train with "
                "model=hard_negatives or model=pretrain."
            )
        return self.features.images, self.features.reports

    @property
    def phantom(self) -> PhantomSplit:
        """The studies, of which everything is known.

        Raises:
            UserError: they are of another data set.
        """
        if not isinstance(self.studies, PhantomSplit):
            raise UserError("This task needs boxes, masks or facts of every finding, which only data=phantom has.")
        return self.studies
