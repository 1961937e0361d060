"""The loader of training batches; a resumed run continues at the batch where it stopped."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any, cast

from torch.utils.data import BatchSampler, DataLoader, Sampler

from hardneg_plugin.data.studies import Sample


class TrainingLoader(DataLoader[Sample]):
    """A loader whose place within an epoch is part of a checkpoint.

    Lightning keeps the state of a loader that has one. A run resumed in mid-epoch gets the batches after the last one handed
    out; earlier ones are not loaded again. Batches that worker processes have prefetched do not count as handed out; the
    batch of a step that failed does. This needs a sampler with an `epoch`, such as `SeededShuffle` (also under Lightning's
    distributed wrapper); with any other the epoch starts anew.

    Keys are taken from the sampler when the first batch is requested, not when the iterator is made: Lightning makes the
    first iterator of a resumed run before it sets the sampler's epoch, and with worker processes a plain loader has handed
    out keys of epoch 0 by then.
    """

    _epoch: int | None = None
    _handed_out: int = 0
    _is_resumed: bool = False

    def state_dict(self) -> dict[str, Any]:
        """The current epoch and the number of its batches handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there in the next iteration if it is of that epoch; any other epoch is whole."""
        self._epoch, self._handed_out = state["epoch"], state["batches"]
        self._is_resumed = True

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch: int | None = getattr(self.sampler, "epoch", None)
        goes_on = self._is_resumed and epoch is not None and epoch == self._epoch
        self._epoch, self._handed_out = epoch, self._handed_out if goes_on else 0
        self._is_resumed = False
        batches = cast(BatchSampler, self.batch_sampler)
        batches.sampler = _RemainingKeys(self.sampler, self._handed_out * batches.batch_size)
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch


class _RemainingKeys(Sampler[Any]):
    """The keys of a sampler from a position on. Its length is the whole sampler's: Lightning counts earlier batches too."""

    def __init__(self, sampler: Any, start: int) -> None:
        self._sampler, self._start = sampler, start

    def __len__(self) -> int:
        return len(cast(Sized, self._sampler))

    def __iter__(self) -> Iterator[Any]:
        return islice(self._sampler, self._start, None)
