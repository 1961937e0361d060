"""The terms of a step, their weights, and the loss that they make together with the host's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardneg_plugin.errors import require_number


@dataclass(frozen=True)
class Weights:
    """Weights of the terms in the total loss, each >= 0.

    >>> Weights(alignment=0.1)
    Weights(report=1.0, alignment=0.1, separation=0.1, likelihood=0.1)
    """

    report: float = 1.0
    alignment: float = 0.05
    separation: float = 0.1
    likelihood: float = 0.1

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            require_number(weight, f"weights.{name}", "a weight >= 0", least=0)


@dataclass(frozen=True)
class ObjectiveOutput:
    """The unweighted terms of one step, and further scalars to log, detached."""

    alignment_loss: Tensor
    separation_loss: Tensor
    logs: dict[str, Tensor]
    report_loss: Tensor | None = None
    """In place of the host's, where `token_weights` weigh its tokens."""
    likelihood_loss: Tensor | None = None

    def logged(self, report_loss: Tensor) -> dict[str, Tensor]:
        """What a training logs of a step, by name: losses and scalars, detached float32 on the device of the host's loss.

        Args:
            report_loss: of the host, a scalar.
        """
        losses = {
            "report_loss": report_loss,
            "alignment_loss": self.alignment_loss,
            "separation_loss": self.separation_loss,
        }
        if self.likelihood_loss is not None:
            losses["likelihood_loss"] = self.likelihood_loss
        values = {**losses, **self.logs}
        return {
            name: value.detach().to(report_loss.device, torch.float32).reshape(()) for name, value in values.items()
        }


def total_loss(weights: Weights, report_loss: Tensor, terms: ObjectiveOutput) -> Tensor:
    """The loss of a step: the weighted sum of its terms.

    Args:
        weights: of the terms.
        report_loss: of the host, a scalar.
        terms: of the objective.

    >>> one = torch.tensor(1.0)
    >>> total_loss(Weights(alignment=0.5, separation=0.0), one, ObjectiveOutput(one, one, {}))
    tensor(1.5000)
    """
    report_loss = report_loss if terms.report_loss is None else terms.report_loss
    loss = weights.report * report_loss + weights.alignment * terms.alignment_loss
    loss = loss + weights.separation * terms.separation_loss
    return loss if terms.likelihood_loss is None else loss + weights.likelihood * terms.likelihood_loss
