"""One training batch of a Trainer, whole or in parts: the trainer's loss and the features of its studies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hardneg_plugin.objectives import HardNegativeObjective
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import HostStep, joined, run_parts
from hardneg_plugin.plugin.feature_paths import FeaturePaths, recorded
from hardneg_plugin.plugin.joined_features import pooled_only

_WHOLE = ""  # the path of the model itself


@dataclass(frozen=True)
class ModelStep:
    """How a trainer's loss and the features of a batch are computed.

    Args:
        places: of the features, in `host`.
        host: the model that paths start at: the base model within one of peft.
        model: the model whose outputs places read.
        objective: which parts of features it reads, and whether it reads statements.
        compute_loss: from a batch to the trainer's loss, or to a tuple of it and the outputs.
        losses_are_shares: whether the losses of parts add up to that of the batch; else their weighted mean does.

    >>> model = nn.Linear(3, 4)
    >>> places = FeaturePaths(images="outputs", reports="outputs")
    >>> step = ModelStep(places, model, model, HardNegativeObjective(), lambda part: model(part["rows"]).sum(), True)
    """

    places: FeaturePaths
    host: nn.Module
    model: nn.Module
    objective: HardNegativeObjective
    compute_loss: Callable[[Any], Any]
    losses_are_shares: bool

    def whole(self, batch: Any) -> HostStep:
        """The step on a whole batch."""
        return self._run(batch, is_part=False, has_statements=True)

    def in_parts(self, batch: Any, chunks: Chunks, wrapped: nn.Module) -> HostStep:
        """The step on a batch in parts, as one.

        Args:
            batch: of B studies.
            chunks: the number of parts, or a callable from the batch to its parts.
            wrapped: the model as the trainer calls it, inside DDP.
        """

        def step(part: Any, index: int, again: bool) -> HostStep:
            return self._run(part, is_part=True, has_statements=index == 0)

        return joined(run_parts(step, batch, chunks, wrapped))

    def _run(self, batch: Any, *, is_part: bool, has_statements: bool) -> HostStep:
        # the trainer is not asked for the outputs: it would cost another forward in TRL
        with recorded({**self.places.modules(self.host), _WHOLE: self.model}) as calls:
            result = self.compute_loss(batch)
        loss, returned = result if isinstance(result, tuple) else (result, None)
        outputs = calls.pop(_WHOLE)[-1]

        def read(name: str) -> Any:
            return self.places.read(name, self.host, batch, outputs, calls)

        pairs = self.places.pairs(self.host, batch, outputs, calls)
        statements = read("statements") if has_statements and self.objective.statement_texts else None
        if not is_part:
            return HostStep(returned, loss, pairs, statements)
        if not self.objective.reads_parts:
            pairs = pooled_only(pairs)
        weight = None
        if not self.losses_are_shares:
            weight = read("chunk_weight")
            weight = weight.sum() if isinstance(weight, Tensor) else weight
            weight = len(pairs.images) if weight is None else weight
        return HostStep(returned, loss, pairs, statements, weight)
