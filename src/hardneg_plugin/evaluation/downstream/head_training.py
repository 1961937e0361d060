"""Training a small head on frozen features, alike for every encoder; the epoch that is best on validation is kept."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError

HeadModule = TypeVar("HeadModule", bound=nn.Module)


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained: AdamW at a constant rate for a fixed number of epochs.

    Raises:
        UserError: a number is out of its range.

    >>> HeadTraining(epochs=10, lr=0.003)
    HeadTraining(epochs=10, batch_size=32, lr=0.003, weight_decay=0.01, seed=0)
    """

    epochs: int = 20
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    """Of the head's first weights and of the order of the batches."""

    def __post_init__(self) -> None:
        for name, number in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if number < 1:
                raise UserError(f"{name}: expected a positive integer, but got {number}.")
        if not 0 < self.lr < math.inf or not 0 <= self.weight_decay < math.inf:
            raise UserError(
                f"lr and weight_decay: expected finite numbers > 0 and >= 0, but got {self.lr} and {self.weight_decay}."
            )


@dataclass(frozen=True)
class TrainedHead(Generic[HeadModule]):
    """A head after its best epoch, in evaluation mode."""

    head: HeadModule
    epoch: int
    """The best one, counted from 1."""
    scores: tuple[float, ...]
    """On validation, after each epoch."""


class Standardise(nn.Module):
    """Standardise features channel by channel, with the mean and the standard deviation of the training features.

    So no encoder wins by the scale of its features. A channel that is constant in training is only centred. Without training
    features, nothing is changed.

    Args:
        features: `(K, D)`, of training.

    >>> Standardise(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))(torch.tensor([[4.0, 6.0]]))
    tensor([[3., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        std, mean = features.new_ones(features.shape[1]).float(), features.new_zeros(features.shape[1]).float()
        if len(features):
            std, mean = torch.std_mean(features.float(), dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 1e-5 * mean.abs(), std, 1.0))  # below is rounding of float32

    def forward(self, features: Tensor) -> Tensor:
        """`(..., D)` to `(..., D)` float32."""
        return (features.float() - self.mean) / self.std


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block; its state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the accelerators too
        yield


def train_head(
    head: HeadModule, count: int, loss: Callable[[Tensor], Tensor], score: Callable[[], float], training: HeadTraining
) -> TrainedHead[HeadModule]:
    """Train a head in place; it keeps the weights of the epoch with the highest score.

    Of equal epochs the last is kept; NaN is the lowest score. Torch's global random state is neither read nor changed.

    Args:
        head: on the device where it is to be trained.
        count: of training rows, >= 1.
        loss: from the rows of a batch, `(B,)` int64, to the loss of each, `(B,)`.
        score: on validation, the higher the better; called without gradients and in evaluation mode.
        training: how.

    Raises:
        UserError: there is nothing to train on.
    """
    if count < 1:
        raise UserError("Expected at least one study to train the head on, but got none: check the training split.")
    order = torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    best, chosen, kept = -math.inf, 0, head.state_dict()
    scores: list[float] = []
    for epoch in range(1, training.epochs + 1):
        head.train()
        for rows in torch.randperm(count, generator=order).split(training.batch_size):
            optimizer.zero_grad()
            loss(rows).mean().backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            scores.append(score())
        current = -math.inf if math.isnan(scores[-1]) else scores[-1]
        if current >= best:
            best, chosen = current, epoch
            kept = {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(kept)
    return TrainedHead(head, chosen, tuple(scores))
