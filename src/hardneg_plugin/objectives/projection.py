"""The map from features to the embeddings that are aligned."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARE = 0.1
"""Weight of a new batch in the running mean, after the first nine."""


class ProjectionHead(nn.Linear):
    """A linear map without bias, of features less their running mean.

    Report features have much in common: two of them have a mean cosine of .88 from an untrained decoder, and of .75 as word
    embeddings. An alignment that must undo this first learns late, so the mean is subtracted before the map.

    Args:
        features: width of the features.
        width: of the embeddings.
        centred: subtract the running mean, which is part of every checkpoint; False: a plain linear map.

    >>> head = ProjectionHead(6, 4, centred=True)
    >>> head.follow(torch.ones(6))
    >>> head.centre
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000])
    """

    centre: Tensor
    batches: Tensor

    def __init__(self, features: int, width: int, *, centred: bool) -> None:
        super().__init__(features, width, bias=False)
        self.centred = centred
        if centred:
            self.register_buffer("centre", torch.zeros(features))
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, features)` to `(B, width)`."""
        return F.linear(features - self.centre if self.centred else features, self.weight)

    @torch.no_grad()
    def follow(self, mean: Tensor) -> None:
        """Update the running mean by that of one more batch, `(features,)`, unless it is not finite."""
        if not self.centred:
            return
        is_finite = (0 * mean).sum() == 0
        self.batches += is_finite
        # as if a batch of zeros had come first: otherwise the embedding of a batch of one study would be zero
        share = (self.batches + 1).reciprocal().clamp_min(SHARE)
        self.centre.lerp_(mean.nan_to_num(), is_finite * share)
