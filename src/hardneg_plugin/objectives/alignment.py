"""Losses that pull images and reports together and push hard negatives away: strategies of `HardNegativeObjective`."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError, require_number
from hardneg_plugin.functional.losses import info_nce, released_alignment, triplet
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives


class Alignment(Protocol):
    """What `HardNegativeObjective(alignment=...)` accepts."""

    @property
    def initial_log_scales(self) -> tuple[float, ...]:
        """Initial logarithms of its learnable logit scales; empty where it has none."""
        ...

    @property
    def log_scale_range(self) -> tuple[float, float]:
        """The range to which they are clamped before every use."""
        ...

    def __call__(
        self, batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None, logit_scales: Tensor
    ) -> Tensor:
        """The loss of each local study.

        Args:
            batch: B local studies and those of all ranks.
            negatives: K hard negatives of each local study.
            hardened: `(B, K, D)`; None where nothing is hardened.
            logit_scales: one for each of `initial_log_scales`.

        Returns:
            `(B,)`.
        """
        ...


def _check_temperature(temperature: float) -> None:
    require_number(temperature, "alignment.temperature", "a temperature in [0.01, 1]", least=0.01, most=1)


@dataclass(frozen=True)
class InfoNCE:
    """Contrast within the batch of all ranks, both ways, with hard and hardened negatives as extra columns.

    Image-to-report has the hard and the hardened negative of the image as extra columns, report-to-image the hard negative's image
    where the source knows it. A hard negative that is in the batch too counts 1 + w1 times.

    Args:
        temperature: initial 1 / logit scale, in [0.01, 1]; the scale is learned, within [1, 100].
        negative_weight: w1, weight of the hard negative's column, >= 0.
        hardened_weight: w2, weight of the hardened negative's column, >= 0.

    >>> round(InfoNCE(temperature=0.1).initial_log_scales[0], 4)
    2.3026
    """

    temperature: float = 0.07
    negative_weight: float = 1.0
    hardened_weight: float = 1.0
    log_scale_range: ClassVar[tuple[float, float]] = (0.0, math.log(100))

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        require_number(self.negative_weight, "alignment.negative_weight", "a weight >= 0", least=0)
        require_number(self.hardened_weight, "alignment.hardened_weight", "a weight >= 0", least=0)

    @property
    def initial_log_scales(self) -> tuple[float, ...]:
        """One scale."""
        return (math.log(1 / self.temperature),)

    def __call__(
        self, batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None, logit_scales: Tensor
    ) -> Tensor:
        """Mean of image-to-report and report-to-image InfoNCE, `(B,)`."""
        (scale,) = logit_scales
        valid = negatives.valid.to(batch.images.dtype)
        columns, weights = [negatives.reports], [self.negative_weight * valid]
        if hardened is not None:
            columns.append(hardened)
            weights.append(self.hardened_weight * valid)
        contrast = partial(info_nce, logit_scale=scale, first=batch.shards.local.start, is_match=batch.is_match)
        hard, hard_weight = torch.cat(columns, dim=1), torch.cat(weights, dim=1)
        to_report = contrast(batch.images, batch.all_reports, hard=hard, hard_weight=hard_weight)
        to_image = contrast(batch.reports, batch.all_images, hard=negatives.images, hard_weight=weights[0])
        return (to_report + to_image) / 2


@dataclass(frozen=True)
class Triplet:
    """Hinge between the positive and the hardened negative (the hard one where nothing is hardened).

    The loss of ITHN's earlier, withdrawn version.

    Args:
        margin: a cosine difference in (0, 2].

    >>> Triplet(margin=0.1).initial_log_scales
    ()
    """

    margin: float = 0.2
    initial_log_scales: ClassVar[tuple[float, ...]] = ()
    log_scale_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        require_number(self.margin, "alignment.margin", "a cosine difference > 0 and <= 2", above=0, most=2)

    def __call__(
        self, batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None, logit_scales: Tensor
    ) -> Tensor:
        """Triplet loss, `(B,)`."""
        hard = negatives.reports if hardened is None else hardened
        return triplet(batch.images, batch.reports, hard, margin=self.margin, valid=negatives.valid)


@dataclass(frozen=True)
class ReleasedAlignment:
    """The contrastive loss of the released ITHN code with its two free scales, for comparison.

    Needs one hard negative per study and its image. Matches are not masked, and under DDP each rank contrasts its local batch.

    Args:
        temperature: initial 1 / logit scale of both scales, in [0.01, 1].

    >>> len(ReleasedAlignment(temperature=0.1).initial_log_scales)
    2
    """

    temperature: float = 0.07
    log_scale_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    @property
    def initial_log_scales(self) -> tuple[float, ...]:
        """The scale of the pairs and that of the hardened negative."""
        return (math.log(1 / self.temperature),) * 2

    def __call__(
        self, batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None, logit_scales: Tensor
    ) -> Tensor:
        """The released loss, `(B,)`."""
        if negatives.images is None or negatives.reports.shape[1] != 1 or hardened is None:
            raise UserError(
                "alignment=released needs one hard negative per study with its image, and hardened: "
                f"got {negatives.reports.shape[1]} per study, {'no ' if negatives.images is None else ''}images, "
                f"{'not ' if hardened is None else ''}hardened. Set negatives=in_batch negatives.k=1 hardening=released."
            )
        pair_scale, hardened_scale = logit_scales
        single = (part[:, 0] for part in (negatives.images, negatives.reports, hardened))
        return released_alignment(
            batch.images,
            batch.reports,
            *single,
            pair_scale=pair_scale,
            hardened_scale=hardened_scale,
            counts=batch.usable,
        )
