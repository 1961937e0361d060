"""Hardness over training: from a position in training to a hardness in [0, 1].

The position comes from the trainer, whose step and epoch are part of every checkpoint: a resumed run continues on its curve.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from hardneg_plugin.errors import require, require_number

Unit = Literal["epoch", "step", "fraction"]


@dataclass(frozen=True)
class TrainingProgress:
    """A position in training: optimizer steps and epochs done, and the share of all steps done, in [0, 1]."""

    step: int = 0
    epoch: int = 0
    fraction: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """The base of all schedules.

    The objective is off during the warm-up: a contrast of untrained features hurts. Epochs count from 1, as in the released ITHN
    code, steps and fractions from 0.

    Args:
        unit: "epoch", "step" or "fraction" of the training.
        warmup: length of the warm-up in this unit, >= 0.
        cap: the highest hardness, in [0, 1].
    """

    unit: Unit = "fraction"
    warmup: float = 0.0
    cap: float = 0.9

    def __post_init__(self) -> None:
        units = get_args(Unit)
        require(self.unit in units, "schedule.unit", f"one of {', '.join(units)}", repr(self.unit))
        longest = 1 if self.unit == "fraction" else math.inf
        require_number(self.warmup, "schedule.warmup", ">= 0, and < 1 in fractions", least=0, below=longest)
        require_number(self.cap, "schedule.cap", "a hardness in [0, 1]", least=0, most=1)

    def is_active(self, progress: TrainingProgress) -> bool:
        """Whether the warm-up is over."""
        return self._elapsed(progress) >= 0

    def __call__(self, progress: TrainingProgress) -> float:
        """The hardness at a position: 0 during the warm-up, at most `cap`."""
        if not self.is_active(progress):
            return 0.0
        return min(self.cap, max(0.0, self.curve(self._elapsed(progress) + (self.unit == "epoch"))))

    def curve(self, position: float) -> float:
        """The uncapped hardness at a position since the end of the warm-up."""
        raise NotImplementedError

    def _elapsed(self, progress: TrainingProgress) -> float:
        done: float = getattr(progress, self.unit)
        return done - self.warmup


@dataclass(frozen=True)
class Constant(Schedule):
    """The same hardness from the end of the warm-up on.

    Args:
        unit, warmup, cap: as of `Schedule`.
        hardness: in [0, 1].

    >>> Constant(hardness=0.5, warmup=0.1)(TrainingProgress(fraction=0.05))
    0.0
    """

    hardness: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.hardness, "schedule.hardness", "a hardness in [0, 1]", least=0, most=1)

    def curve(self, position: float) -> float:
        """`hardness` at every position."""
        return self.hardness


@dataclass(frozen=True)
class Exponential(Schedule):
    """1 - exp(-rate * position), as in the released ITHN code with its rate of 0.01 per epoch.

    Args:
        unit, warmup, cap: as of `Schedule`.
        rate: per unit, > 0.

    >>> round(Exponential(rate=0.01)(TrainingProgress(epoch=9)), 4)
    0.0952
    """

    rate: float = 0.01
    unit: Unit = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.rate, "schedule.rate", "a rate > 0", above=0)

    def curve(self, position: float) -> float:
        """1 - exp(-rate * position)."""
        return 1 - math.exp(-self.rate * position)


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from 0 at the end of the warm-up to `peak` at position `end`, then constant.

    Args:
        unit, warmup, cap: as of `Schedule`.
        end: position of the peak, > `warmup`.
        peak: the hardness there, in [0, 1].

    >>> Linear(peak=0.8)(TrainingProgress(fraction=0.5))
    0.4
    """

    end: float = 1.0
    peak: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.peak, "schedule.peak", "a hardness in [0, 1]", least=0, most=1)
        expected = f"a position after the warm-up, which ends at {self.warmup}"
        require_number(self.end, "schedule.end", expected, above=self.warmup)

    def curve(self, position: float) -> float:
        """peak * position / (end - warmup), at most `peak`."""
        return self.peak * self.share(min(1.0, position / (self.end - self.warmup)))

    def share(self, x: float) -> float:
        """The shape of the rise, from 0 at x = 0 to 1 at x = 1."""
        return x


@dataclass(frozen=True)
class Cosine(Linear):
    """As `Linear`, but slow at both ends: half a cosine wave.

    >>> round(Cosine(peak=0.8)(TrainingProgress(fraction=0.25)), 4)
    0.1172
    """

    def share(self, x: float) -> float:
        """(1 - cos πx) / 2."""
        return (1 - math.cos(math.pi * x)) / 2
