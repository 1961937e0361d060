"""From features to the embeddings that are aligned."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARE = 0.1
"""What a new batch counts for in the running mean, once nine have been seen."""


class ProjectionHead(nn.Linear):
    """A linear map without bias, of features less their running mean.

    Features of reports have much in common: an untrained decoder gives two of them a mean cosine of .88, their word embeddings one
    of .75, and an alignment that must first undo that learns late. What they have in common is taken off before the map.

    Args:
        features: width of the features.
        width: of the embeddings.
        centred: subtract the running mean, which is part of every checkpoint; False: a plain linear map.
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
        """Let the running mean follow that of one more batch, `(features,)`; one that is not finite is passed over."""
        if not self.centred:
            return
        is_finite = mean.isfinite().all()
        self.batches += is_finite
        # As if a batch of zeros had come first: the mean of one study is never that study, whose embedding would be zero.
        share = (1 / (self.batches + 1)).clamp_min(SHARE)
        self.centre.lerp_(mean.nan_to_num(), is_finite * share)
