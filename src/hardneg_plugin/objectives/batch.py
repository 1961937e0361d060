"""The embeddings of one step as the parts of an objective see them: local studies, those of all ranks, and which pairs match."""

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
    """K hard negatives of each of B studies.

    >>> unit = torch.eye(3)[None]
    >>> few = HardNegatives(unit[:, :2], None, torch.tensor([[True, False]]))
    >>> few.filled_up(HardNegatives(unit[:, 1:], None, torch.ones(1, 2, dtype=torch.bool))).reports
    tensor([[[1., 0., 0.],
             [0., 0., 1.]]])
    """

    reports: Tensor
    """`(B, K, D)` report embeddings n, unit length."""
    images: Tensor | None
    """`(B, K, D)` image embeddings z' of the same studies, where the source knows them."""
    valid: Tensor
    """`(B, K)` bool; False where a study has fewer than K."""
    index: Tensor | None = None
    """`(B, K)` int64 places among the studies of all ranks, -1 for one that is not among them; None: -1 throughout."""

    def filled_up(self, others: "HardNegatives") -> "HardNegatives":
        """These where they are valid, `others` of the same shape elsewhere."""
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
        """`index`, or -1 throughout."""
        return torch.full_like(self.valid, -1, dtype=torch.int64) if self.index is None else self.index


@dataclass(frozen=True)
class EmbeddedBatch:
    """Unit-length float32 embeddings of one step: of B local studies, and of N of all ranks in the ranks' order.

    >>> keys = MatchKeys.of(2, study_ids=["CXR1", "CXR2"], texts=["No effusion.", "No effusion."])
    >>> embeddings = torch.eye(2)
    >>> EmbeddedBatch(embeddings, embeddings, keys, Shards(rank=0, sizes=(2,)), TrainingProgress()).is_match
    tensor([[True, True],
            [True, True]])
    """

    all_images: Tensor
    """`(N, D)`, attached to the graph."""
    all_reports: Tensor
    """`(N, D)`, attached to the graph."""
    all_keys: MatchKeys
    """Of the N."""
    shards: Shards
    """How the N are spread over the ranks."""
    progress: TrainingProgress
    """The position in training."""
    paired: HardNegatives | None = None
    """Hard negatives of the local studies that came with the batch."""
    all_usable: Tensor = None  # type: ignore[assignment]  # never None once made
    """`(N,)` bool, False for a study whose features are not finite or of length zero: its embeddings are zero, its keys unknown,
    and it matches every study. None: all are usable."""

    def __post_init__(self) -> None:
        if self.all_usable is None:
            device = self.all_images.device
            object.__setattr__(self, "all_usable", torch.ones(len(self.all_images), dtype=torch.bool, device=device))

    @property
    def images(self) -> Tensor:
        """`(B, D)`, of the local studies."""
        return self.all_images[self.shards.local]

    @property
    def reports(self) -> Tensor:
        """`(B, D)`, of the local studies."""
        return self.all_reports[self.shards.local]

    @property
    def keys(self) -> MatchKeys:
        """Of the local studies."""
        return self.all_keys[self.shards.local]

    @property
    def usable(self) -> Tensor:
        """`(B,)` bool, of the local studies."""
        return self.all_usable[self.shards.local]

    @cached_property
    def is_match(self) -> Tensor:
        """`(B, N)` bool: which of all studies are no negatives of a local one; each matches itself, even if its id is unknown."""
        is_match = match_mask(self.keys.columns, self.all_keys.columns)
        is_match = is_match | ~self.usable[:, None] | ~self.all_usable
        is_match.diagonal(self.shards.local.start).fill_(True)
        return is_match

    def loss(self, losses: Tensor) -> Tensor:
        """The scalar loss of this rank from those of its B studies: `Σ usable local · ranks / usable of all`.

        Its mean over the ranks, which DDP takes of the gradients, is the mean over the usable studies of all ranks.
        """
        share = len(self.shards.sizes) / self.all_usable.sum().clamp_min(1).to(losses.dtype)
        return losses.where(self.usable, 0).sum() * share

    def local_mean(self, values: Tensor) -> Tensor:
        """The mean of `(B,)` over the usable local studies, detached, for logs."""
        usable = self.usable
        return values.detach().where(usable, 0).sum() / usable.sum().clamp_min(1)

    def generator(self) -> torch.Generator:
        """A generator for this step alone: it leaves the global one as it is and does not depend on earlier steps.

        A host draws the same dropout as without the plug-in, and a resumed run the same numbers as an unbroken one.
        """
        seed = (torch.initial_seed() * 1_000_003 + self.progress.step * 10_007 + self.shards.rank) % 2**63
        return torch.Generator(self.all_reports.device).manual_seed(seed)
