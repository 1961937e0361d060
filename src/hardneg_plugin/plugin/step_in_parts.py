"""The half of the plug-in that runs a LightningModule's step in parts of a batch."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import HostStep, joined, run_parts
from hardneg_plugin.plugin.joined_features import pooled_only
from hardneg_plugin.plugin.part_log import PartLog, log_together

# It stands before a LightningModule in the bases, and takes its methods from there.
_Host: Any = Any if TYPE_CHECKING else object


class StepInParts(_Host):
    """What `HardNegativeMixin` needs to run the host's step in parts, and to log them as one batch."""

    hard_negatives: HardNegativeObjective
    _chunks: Chunks = 1
    _part_log: PartLog | None = None
    embed: Callable[[Any, Any], PairEmbeddings]
    embed_statements: Callable[[Any, Any], Tensor | None]

    def chunk_weight(self, batch: Any, outputs: Any) -> Tensor | float | None:
        """The weight of a part's loss in that of the batch, for `chunks`; None, the default: its number of studies.

        That is right for a host that takes a mean over studies. One that takes a mean over tokens gives their number here, by which
        the loss of the whole batch is that of the unsplit step.

        Args:
            batch: a part of the batch.
            outputs: what the host's `training_step` returned for it.
        """
        return None

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """As the host's; in parts of a batch it is kept until all of them have run. Arguments are those of Lightning."""
        if self._part_log is None:
            super().log(name, value, *args, **kwargs)
        else:
            self._part_log.keep(name, value, args, kwargs)

    def _read(self, batch: Any, outputs: Any, *, has_statements: bool = True) -> HostStep:
        """The features of a step, where it has a loss: Lightning skips other batches, or raises its error."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            return HostStep(outputs)
        pairs = self.embed(batch, outputs)
        has_statements = has_statements and bool(self.hard_negatives.statement_texts)
        statements = self.embed_statements(batch, outputs) if has_statements else None
        return HostStep(outputs, loss, pairs, statements)

    def _in_parts(self, batch: Any, host_step: Callable[[Any], Any]) -> HostStep:
        logs: list[PartLog] = []
        first: list[int] = []  # the part that gives the statements, as soon as one has a loss

        @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
        def step(part: Any, index: int, again: bool) -> HostStep:
            with self._keeping_logs() as log:
                if not again:
                    logs.append(log)
                outputs = host_step(part)
                found = self._read(part, outputs, has_statements=first in ([], [index]))
                if found.pairs is None:
                    return found
                first[:] = first or [index]
                weight = self.chunk_weight(part, outputs)
                pairs = found.pairs if self.hard_negatives.reads_parts else pooled_only(found.pairs)
                return replace(found, pairs=pairs, weight=len(pairs.images) if weight is None else weight)

        steps = run_parts(step, batch, self._chunks, self)
        log_together(logs, [1 if step.weight is None else step.weight for step in steps], self.log)
        return joined(steps)

    @contextmanager
    def _keeping_logs(self) -> Iterator[PartLog]:
        self._part_log = log = PartLog()
        try:
            yield log
        finally:  # of one that is computed again too, which ends by an exception as soon as it has what it needs
            self._part_log = None
            self._forget_step()

    def _forget_step(self) -> None:
        """Drop what was recorded in the step."""
