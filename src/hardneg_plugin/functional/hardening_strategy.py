"""What every hardening strategy is: its one call signature, and the base of those without a state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import require_number
from hardneg_plugin.functional.match_keys import MatchKeys


@dataclass(frozen=True)
class StepStudies:
    """The studies whose negatives a training step hardens, for strategies that remember them."""

    keys: MatchKeys
    """Of the B studies."""
    valid: Tensor
    """`(B, K)` bool; False where a study has fewer than K negatives."""
    shards: Shards
    """How the studies of all ranks are spread over the ranks."""


class Hardening(Protocol):
    """What `HardNegativeObjective(hardening=...)` accepts; an `nn.Module` where it has a state to keep."""

    @property
    def mixes_studies(self) -> bool:
        """Whether a hardened negative depends on the other studies of its batch."""
        ...

    def __call__(
        self,
        images: Tensor,
        reports: Tensor,
        negatives: Tensor,
        hardness: float,
        studies: StepStudies | None = None,
    ) -> Tensor:
        """Hardened negatives, detached, of the negatives' shape.

        Args:
            images: `(B, D)`, unit length.
            reports: `(B, D)`, unit length.
            negatives: `(B, D)` or `(B, K, D)`, unit length.
            hardness: in [0, 1].
            studies: the B studies in training; None in evaluation.
        """
        ...

    def for_evaluation(self) -> "Hardening":
        """The same without a state, for studies that training may not have seen."""
        ...


@dataclass(frozen=True)
class Stateless:
    """A strategy without a state: the fields of the dataclass are the options of `function`."""

    function: ClassVar[Callable[..., Tensor]]
    mixes_studies: ClassVar[bool] = False

    def __call__(
        self,
        images: Tensor,
        reports: Tensor,
        negatives: Tensor,
        hardness: float | Tensor,
        studies: StepStudies | None = None,
    ) -> Tensor:
        """See `Hardening`."""
        return type(self).function(images, reports, negatives, hardness=hardness, **vars(self))

    def for_evaluation(self) -> "Stateless":
        """Itself."""
        return self


@dataclass(frozen=True)
class Guarded(Stateless):
    """A `Stateless` whose negatives stay aligned worse than the positive by `margin`, in [0, 2)."""

    margin: float = 0.0

    def __post_init__(self) -> None:
        require_number(self.margin, "hardening.margin", "a cosine difference >= 0 and below 2", least=0, below=2)
