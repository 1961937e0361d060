"""A host's step on parts of a batch, so that more studies are contrasted than fit: one backward with the exact gradient.

Each part runs under `torch.utils.checkpoint`: its activations are dropped after its forward, and computed again in the backward,
one part after the other. Losses and pooled features of the parts stay, and are contrasted as those of one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from hardneg_plugin.distributed import warn_on_first_rank
from hardneg_plugin.errors import UserError, require
from hardneg_plugin.objectives import PairEmbeddings
from hardneg_plugin.plugin.batch_parts import Chunks, count_studies, join, split, tensors_in, weighted_mean
from hardneg_plugin.plugin.joined_features import join_pairs


@dataclass(frozen=True)
class HostStep:
    """What a host's step gave, on a batch or a part of it.

    Args:
        outputs: what the host returned.
        loss: its loss, a scalar; None: the host skips this batch.
        pairs: the features of its studies; None exactly where there is no loss.
        statements: `(2, Q, D)`, of the objective's `statement_texts`.
        weight: of the loss in the mean over parts; None: the losses of parts are shares of the batch's loss and are added.
    """

    outputs: Any
    loss: Tensor | None = None
    pairs: PairEmbeddings | None = None
    statements: Tensor | None = None
    weight: Tensor | float | None = None


Step = Callable[[Any, int, bool], HostStep]
"""`(part, index, again)`: the host's step on a part; `again` in the backward, when nothing must be logged or kept."""


def check_chunks(chunks: Chunks) -> Chunks:
    """Check the setting `chunks`.

    Raises:
        UserError: neither a positive integer nor a callable.
    """
    is_count = isinstance(chunks, int) and not isinstance(chunks, bool) and chunks >= 1
    require(
        is_count or callable(chunks), "chunks", "a positive integer, or a callable from a batch to its parts", chunks
    )
    return chunks


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
def run_parts(step: Step, batch: Any, chunks: Chunks, host: nn.Module) -> list[HostStep]:
    """Run the host's step on each part of a batch under activation checkpointing.

    Everything that has to be computed again belongs into `step`, the reading of features too. Random numbers are drawn again as
    they were, autocast is restored, and running statistics (of batch norms and torchmetrics) are updated once. What the host's own
    code counts is counted twice.

    Args:
        step: runs the host on a part.
        batch: of B studies.
        chunks: the number of parts, or a callable from the batch to its parts.
        host: its random numbers and statistics are looked after; the DDP module, where the step calls one.

    Returns:
        The steps of the parts, attached to the graph.

    Raises:
        UserError: the batch cannot be split, or the features of a part are not those of its studies.

    >>> model = nn.Linear(3, 4)
    >>> def step(part, index, again):
    ...     states = model(part["rows"])
    ...     return HostStep(states, states.square().mean(), PairEmbeddings(states, states), weight=len(states))
    >>> whole = joined(run_parts(step, {"rows": torch.ones(5, 3)}, 2, model))
    >>> whole.pairs.images.shape
    torch.Size([5, 4])
    """
    parts = split(batch, chunks)
    if not parts:
        raise UserError("chunks: expected at least one part, but the callable returned none.")
    if len(parts) == 1:
        return [step(parts[0], 0, False)]
    steps = []
    for index, part in enumerate(parts):
        # the random state is kept of those devices that an argument is on
        on_devices = {tensor.device: tensor.detach() for tensor in [*host.parameters(), *tensors_in(part)]}
        run = _Part(step, part, index, host)
        steps.append(checkpoint(run, *on_devices.values(), use_reentrant=False, preserve_rng_state=True))
    if isinstance(chunks, int):
        _check_studies(batch, steps, len(parts))
    return steps


class _Part:
    """The step on one part, which knows whether it runs for the first time."""

    def __init__(self, step: Step, part: Any, index: int, host: nn.Module) -> None:
        self.step, self.part, self.index, self.host, self.again = step, part, index, host, False

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def __call__(self, *on_devices: Tensor) -> HostStep:
        if self.again:
            with _statistics_kept(self.host), _unseen_by_ddp(self.host):
                return self.step(self.part, self.index, True)
        self.again = True
        return self.step(self.part, self.index, False)


def joined(steps: Sequence[HostStep]) -> HostStep:
    """The step of a whole batch, from those of its parts.

    The loss is the mean over the parts, weighted by `HostStep.weight`; with the number of studies as weight it is that of the
    unsplit step where the host takes a mean over studies. Parts without a loss are left out. Features are concatenated, with words
    and regions padded to the longest part and masked. Statements are those of the first part.

    Args:
        steps: of the parts, at least one.
    """
    with_loss = [step for step in steps if step.loss is not None]
    if not with_loss:
        return steps[0]
    losses: list[Any] = [step.loss for step in with_loss]
    weights: list[Any] = [step.weight for step in with_loss]
    pairs = [step.pairs for step in with_loss if step.pairs is not None]
    is_sum = any(weight is None for weight in weights)
    total: Tensor = sum(losses) if is_sum else weighted_mean(losses, weights)
    sizes = [len(part.images) for part in pairs]
    outputs = join([step.outputs for step in with_loss], sizes, sizes if is_sum else weights)
    return HostStep(outputs, total, join_pairs(pairs), with_loss[0].statements)


def warn_of_batch_norm(host: nn.Module) -> None:
    """Warn of batch norms in training mode: in chunks they normalise by the statistics of a part."""
    norms = [name for name, module in host.named_modules() if isinstance(module, _NormBase) and module.training]
    if norms:
        warn_on_first_rank(
            f"chunks: {len(norms)} batch norms in training mode ({norms[0]}, ...) take their statistics from a part of the batch, "
            "so the gradient is not that of the unsplit step. Freeze them by eval(), or use group or layer norms, if that matters."
        )


def _check_studies(batch: Any, steps: Sequence[HostStep], parts: int) -> None:
    studies = count_studies(batch)
    found = [len(step.pairs.images) for step in steps if step.pairs is not None]
    size = -(-studies // parts)
    expected = [min(size, studies - start) for start in range(0, studies, size)]
    if len(found) == len(expected) and found != expected:
        raise UserError(
            f"chunks: expected features of {expected} studies from the parts of a batch of {studies}, but got {found}: the batch "
            "was split along something else than studies. Pass chunks as a callable from the batch to a list of its parts."
        )


@contextmanager
def _unseen_by_ddp(host: nn.Module) -> Iterator[None]:
    """Call the module inside DDP: a forward of DDP prepares it for a backward, and there is one under way."""
    if not isinstance(host, DistributedDataParallel):
        yield
        return
    vars(host)["forward"] = host.module
    try:
        yield
    finally:
        del vars(host)["forward"]


@contextmanager
def _statistics_kept(host: nn.Module) -> Iterator[None]:
    """Batch norms and metrics as they were before, once the context ends."""
    norms = [module for module in host.modules() if isinstance(module, _NormBase) and module.training]
    buffers = [(buffer, buffer.clone()) for module in norms for buffer in module.buffers(recurse=False)]
    metrics = [(module, _state(module)) for module in host.modules() if hasattr(module, "metric_state")]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, state in metrics:
            vars(module).update(state)


def _state(metric: Any) -> dict[str, Any]:
    states = metric.metric_state.items()
    kept = {name: value.clone() if isinstance(value, Tensor) else list(value) for name, value in states}
    return {**vars(metric), **kept}
