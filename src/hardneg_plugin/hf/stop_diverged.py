"""What ends a Trainer's training that diverges, before it saves a checkpoint."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hardneg_plugin.divergence import DivergedError, FiniteSteps, not_finite


class StopDivergedTrainer(TrainerCallback):  # type: ignore[misc]
    """Ends a training on all ranks once loss or gradient are not finite, or the weights are before they are evaluated or saved.

    The trainer adds the losses to `steps`; gradients, ends of steps and weights are watched here.

    Args:
        steps: counts the steps.
        objective: the module beside the model.
        scale: gives the scale of the loss under fp16, whose skipped steps do not count from 1 on; None without such a scale.

    >>> callback = StopDivergedTrainer(FiniteSteps(), nn.Linear(2, 2), lambda: None)
    """

    def __init__(self, steps: FiniteSteps, objective: nn.Module, scale: Callable[[], float | None]) -> None:
        self.steps, self.objective, self.scale = steps, objective, scale
        self._never_finite: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what is not finite already, such as a mask of -inf."""
        self._never_finite = set(not_finite(self._state(kwargs["model"])))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the gradients, which clipping has left as finite as they were."""
        self.steps.add_gradients([*kwargs["model"].parameters(), *self.objective.parameters()])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the step, and look if it is time, or if an evaluation or a checkpoint follows."""
        self.steps.end(state.global_step, _epoch(state))
        if control.should_evaluate or control.should_save:
            self._check(args, state, kwargs["model"])
        elif self.steps.is_due:
            self._look(args)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the weights if an evaluation or a checkpoint follows."""
        if control.should_evaluate or control.should_save:
            self._check(args, state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the weights that the training ends with."""
        self._check(args, state, kwargs["model"])

    def _look(self, args: Any) -> None:
        scale = self.scale()
        try:
            self.steps.look(forgives_gradients=scale is not None and scale >= 1)
        except DivergedError as error:
            raise DivergedError(f"{error} {_way_out(args)}") from None

    def _check(self, args: Any, state: Any, model: nn.Module) -> None:
        self._look(args)
        when = f"after step {state.global_step} in epoch {_epoch(state)}"
        try:
            self.steps.check(self._state(model), self._never_finite, args.device, when)
        except DivergedError as error:
            raise DivergedError(f"{error} {_way_out(args)}") from None

    def _state(self, model: nn.Module) -> dict[str, Any]:
        return {**model.state_dict(), "hard_negatives": self.objective.state_dict()}


def _epoch(state: Any) -> int:
    """From 1; at the end of an epoch it is still that one."""
    whole = int(state.epoch or 0)
    return max(1, whole if state.epoch == whole else whole + 1)


def _way_out(args: Any) -> str:
    last = get_last_checkpoint(args.output_dir) if args.output_dir else None
    if last is None:
        return "No checkpoint was saved before. Look at these studies, and train again with a lower learning_rate."
    return f"{last} is whole: look at these studies, and go on with trainer.train(resume_from_checkpoint={last!r})."
