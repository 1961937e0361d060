"""The loader of training batches, which a resumed run goes on with at the batch where it was left."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any, cast

from torch.utils.data import BatchSampler, DataLoader, Sampler

from hardneg_plugin.data.studies import Sample


class TrainingLoader(DataLoader[Sample]):
    """A loader whose place within an epoch is part of a checkpoint.

    Lightning keeps the state of a loader that has one. A run resumed in mid-epoch gets the batches after the last one handed
    out; those before it are not loaded again. What worker processes have loaded ahead does not count as handed out; the
    batch of a step that failed does. Only for samplers with an `epoch`, such as `SeededShuffle`, under Lightning's distributed
    wrapper too: under any other the epoch starts anew.

    Keys are taken from the sampler when the first batch is wanted, not when the iterator is made: Lightning makes the first
    iterator of a resumed run before it tells the sampler the epoch, and with worker processes a plain loader has by then
    handed out the keys of epoch 0.
    """

    _epoch: int | None = None
    _handed_out: int = 0
    _is_resumed: bool = False

    def state_dict(self) -> dict[str, Any]:
        """The epoch under way and the number of its batches handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, once, where the next epoch iterated is the one of that state; any other is whole."""
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
    """The keys of a sampler from a position on. As long as the whole of it: Lightning counts the batches done too."""

    def __init__(self, sampler: Any, start: int) -> None:
        self._sampler, self._start = sampler, start

    def __len__(self) -> int:
        return len(cast(Sized, self._sampler))

    def __iter__(self) -> Iterator[Any]:
        return islice(self._sampler, self._start, None)
