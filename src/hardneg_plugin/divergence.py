"""Training that diverges: steps whose loss or gradient is not finite, found without waiting for the device at each step."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardneg_plugin.distributed import is_shard, of_all_ranks, world_size
from hardneg_plugin.errors import SharedError, require

SHOWN = 16
"""Study ids that a message names."""


class DivergedError(SharedError):
    """The loss, the gradient or the weights are not finite."""


@dataclass
class _Step:
    """An optimizer step."""

    loss: Tensor
    """Whether the loss was not finite, as a bool on the device."""
    gradient: Tensor
    number: int = 0
    epoch: int = 0
    ids: list[Any] = field(default_factory=list)
    """Of the studies of each batch."""


class FiniteSteps:
    """Watches losses and gradients, and raises after a number of steps in a row that were not finite.

    Whether a value is finite is found out on the device. It is read from there every few steps, for all of them at once, so that no
    step waits. The ids of the studies are kept until then.

    Args:
        patience: so many steps in a row, >= 1.
        every_n_steps: steps between two looks, >= 1. One process on a CPU looks at each step, as there is nothing to wait for.

    Raises:
        UserError: a number is out of range.

    >>> steps = FiniteSteps(patience=2)
    >>> for number, loss in enumerate((1.0, float("nan"), float("inf")), start=1):
    ...     steps.add_batch(torch.tensor(loss), [f"study {number}"])
    ...     steps.end(number, epoch=1)
    ...     steps.look()
    Traceback (most recent call last):
    hardneg_plugin.divergence.DivergedError: Training diverged: the loss was not finite in 2 steps in a row, the first of them \
step 2 in epoch 1, with the study study 2.
    """

    def __init__(self, patience: int = 3, every_n_steps: int = 10) -> None:
        for name, number in (("patience", patience), ("every_n_steps", every_n_steps)):
            require(number >= 1, name, "a positive integer", number)
        self.patience, self.every_n_steps = patience, every_n_steps
        self._now: _Step | None = None
        self._ended: list[_Step] = []
        self._streak: list[tuple[_Step, bool]] = []
        """Steps in a row that were not finite, and whether the loss was not."""

    def add_batch(self, loss: Tensor | None, ids: Sequence[Any] | Tensor = ()) -> None:
        """Add a batch to the step under way.

        Args:
            loss: a scalar; None: the batch has none.
            ids: of its studies; a tensor is read only if they are to be named.
        """
        if loss is not None:
            loss = loss.detach()
            step = self._step_on(loss.device)
            step.loss = step.loss | ~torch.isfinite(loss).all()
        if self._now is not None:
            self._now.ids.append(ids)

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the norm of the gradients of parameters to the step under way."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        local = map(_local, gradients)
        norm = nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in local])
        step = self._step_on(norm.device)
        step.gradient = step.gradient | ~torch.isfinite(norm)

    def end(self, number: int, epoch: int) -> None:
        """End the step under way.

        Args:
            number: of the optimizer step, from 1.
            epoch: from 1.
        """
        if self._now is not None:
            self._now.number, self._now.epoch = number, epoch
            self._ended.append(self._now)
            self._now = None

    @property
    def is_due(self) -> bool:
        """Whether it is time to look; the same on all ranks."""
        if not self._ended:
            return False
        at_once = world_size() == 1 and self._ended[0].loss.device.type == "cpu"
        return at_once or len(self._ended) >= self.every_n_steps

    def look(self, *, forgives_gradients: bool = False) -> None:
        """Read what there is to read; a collective call, of which all ranks have had the same number of steps.

        Args:
            forgives_gradients: gradients that are not finite do not count, as where a `GradScaler` skips such steps.

        Raises:
            DivergedError: on all ranks, so many steps in a row were not finite.
        """
        if not self._ended:
            return
        flags = torch.stack([torch.stack((step.loss, step.gradient)) for step in self._ended]).to(torch.uint8)
        if world_size() > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        for step, (loss, gradient) in zip(self._ended, flags.tolist(), strict=True):
            if loss or (gradient and not forgives_gradients):
                self._streak.append((step, bool(loss)))
            else:
                self._streak = []
            if len(self._streak) >= self.patience:
                self._ended = []
                raise DivergedError(f"Training diverged: {self._told(len(self._streak))}.")
        self._ended = []

    def check(self, state: Mapping[str, Any], known: Collection[str], device: torch.device, when: str) -> None:
        """Look, and refuse a state that is not finite; a collective call.

        Args:
            state: nested, with tensors.
            known: names in it that need not be finite.
            device: of the collective.
            when: for the message, such as "after step 3 in epoch 1".

        Raises:
            DivergedError: on all ranks, something in it is not finite on some rank.
        """
        names = [name for name in not_finite(state) if name not in known]
        if not _on_any_rank(bool(names), device):
            return
        names = next(filter(None, of_all_ranks(names)))
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        told = f"; {self._told(len(self._streak))}" if self._streak else ""
        raise DivergedError(f"Training diverged: {when} {names[0]}{more} not finite{told}.")

    def _step_on(self, device: torch.device) -> _Step:
        if self._now is None:
            fine = torch.zeros((), dtype=torch.bool, device=device)
            self._now = _Step(fine, fine)
        return self._now

    def _told(self, steps: int) -> str:
        """What happened, with the studies of all ranks whose loss was not finite; of all ranks where it was on none."""
        step, is_loss = self._streak[0]
        own = [str(study) for ids in step.ids for study in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        of_ranks = of_all_ranks((own, is_loss and bool(step.loss)))
        named = [ids for ids, is_named in of_ranks if is_named] or [ids for ids, _ in of_ranks]
        studies = [study for ids in named for study in ids]
        which = f", with the {'study' if len(studies) == 1 else 'studies'} {_listed(studies)}" if studies else ""
        what = "the loss" if is_loss else "the gradient (the loss was)"
        times = f"in {steps} steps in a row, the first of them" if steps > 1 else "in"
        return f"{what} was not finite {times} step {step.number} in epoch {step.epoch}{which}"


def _listed(studies: Sequence[str]) -> str:
    rest = len(studies) - SHOWN
    return ", ".join(studies[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def not_finite(state: Mapping[str, Any] | Sequence[Any], name: str = "") -> list[str]:
    """The names of tensors that are not finite, in nested mappings and sequences.

    Args:
        state: such as a state dict.
        name: of the state; names of what is in it begin with it.

    >>> not_finite({"weight": torch.ones(2), "deep": [torch.tensor(float("nan"))], "step": 3})
    ['deep.0']
    """
    found = list(_float_tensors(state, name))
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for full, value in found:
        by_device.setdefault(value.device, []).append((full, torch.isfinite(value).all()))
    wrong = set()
    for flags in by_device.values():  # read once for each device
        fine = torch.stack([flag for _, flag in flags]).tolist()
        wrong |= {full for (full, _), is_fine in zip(flags, fine, strict=True) if not is_fine}
    return [full for full, _ in found if full in wrong]


def _float_tensors(state: Mapping[str, Any] | Sequence[Any], name: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Tensor):
            local = _local(value.detach())
            if local.is_floating_point():
                yield full, local
        elif isinstance(value, Mapping | list | tuple):
            yield from _float_tensors(value, full)


def _local(tensor: Any) -> Tensor:
    own: Tensor = tensor.to_local() if is_shard(tensor) else tensor
    return own


def _on_any_rank(holds: bool, device: torch.device) -> bool:
    if world_size() == 1:
        return holds
    flag = torch.tensor(holds, dtype=torch.uint8, device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
