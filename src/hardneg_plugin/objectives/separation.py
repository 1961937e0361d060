"""Losses that keep images of a study and of its hard negatives apart: strategies of `HardNegativeObjective`."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hardneg_plugin.errors import require_number
from hardneg_plugin.functional.losses import absolute_separation, separation


class Separation(Protocol):
    """What `HardNegativeObjective(separation=...)` accepts."""

    def __call__(self, images: Tensor, negative_images: Tensor, valid: Tensor) -> Tensor:
        """The loss of each study.

        Args:
            images: `(B, D)`, unit length.
            negative_images: `(B, K, D)`, unit length.
            valid: `(B, K)` bool, which negatives count.

        Returns:
            `(B,)`.
        """
        ...


@dataclass(frozen=True)
class Hinge:
    """Images of a study and of its hard negative no more similar than `margin`, a cosine in [-1, 1).

    >>> import torch
    >>> image = torch.eye(2)[:1]
    >>> Hinge(margin=0.25)(image, image[:, None], torch.ones(1, 1, dtype=torch.bool))
    tensor([0.7500])
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        require_number(self.margin, "separation.margin", "a cosine in [-1, 1)", least=-1, below=1)

    def __call__(self, images: Tensor, negative_images: Tensor, valid: Tensor) -> Tensor:
        """max(0, z·z' - margin), `(B,)`."""
        return separation(images, negative_images, margin=self.margin, valid=valid)


@dataclass(frozen=True)
class Absolute:
    """|z·z'|, as in the released ITHN code: it pushes negative cosines up, too.

    >>> import torch
    >>> image = torch.eye(2)[:1]
    >>> Absolute()(image, -image[:, None], torch.ones(1, 1, dtype=torch.bool))
    tensor([1.])
    """

    def __call__(self, images: Tensor, negative_images: Tensor, valid: Tensor) -> Tensor:
        """|z·z'|, `(B,)`."""
        return absolute_separation(images, negative_images, valid=valid)
