"""The base of the metrics: studies are gathered over ranks, counted once, and scored once."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

T = TypeVar("T")
Details = TypeVar("Details")


def first_of_each(ids: Sequence[str]) -> list[int]:
    """The index of the first occurrence of each identifier, in the order of the sorted identifiers.

    >>> first_of_each(["b", "a", "b", "c"])
    [1, 0, 3]
    """
    first = {study: index for index, study in reversed(list(enumerate(ids)))}
    return [first[study] for study in sorted(first)]


def on_first_rank(compute: Callable[[], T]) -> T:
    """The result of `compute` on rank 0, on every rank of the default process group; a collective call.

    Raises:
        Exception: on rank 0 what `compute` raised; on other ranks a RuntimeError that quotes it, so that none waits forever.
    """
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = compute()
        except Exception as error:
            failure = error
            outcome[1] = f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(outcome, src=0)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RuntimeError(f"Rank 0 could not compute a metric: {outcome[1]}")
    return cast(T, outcome[0])


class StudyMetric(Metric, Generic[Details]):
    """A metric over all studies of a split, each counted once whichever ranks saw it.

    Samplers repeat studies to give every rank equally many, and the mean of the ranks' scores is not the score of the split.
    Therefore the inputs of `update` are kept, gathered over ranks in `compute`, and reduced to one entry per study: the first seen,
    in the order of the sorted ids. Rank 0 scores them, and every rank returns its scores: bit for bit those of one process.
    `reset`, `clone`, pickling and `forward` work as for any metric; nothing is saved in checkpoints.

    >>> class ReportLength(StudyMetric[None]):
    ...     def update(self, ids, reports):
    ...         self.remember(ids, reports)
    ...     def score(self, ids, reports):
    ...         return {"length": sum(len(report.split()) for report in reports) / len(ids)}, None
    >>> length = ReportLength()
    >>> length.update(["a", "b", "a"], ["no effusion", "clear", "no effusion"])
    >>> float(length.compute()["length"])
    1.5
    """

    # The inputs are texts as well as tensors, which torchmetrics' states cannot hold (an empty rank breaks the gathering of
    # encoded ones): hence a plain attribute, and the four methods below that handle it.
    full_state_update: ClassVar[bool] = True  # type: ignore[misc]

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[tuple[Any, ...]] = []
        self._details: Details | None = None

    @abstractmethod
    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], Details]:
        """Score a split.

        Args:
            ids: those of N >= 1 studies, sorted.
            columns: as given to `remember`, N rows each.

        Returns:
            Scores by name, and the details that the metric keeps.
        """

    def remember(self, ids: Sequence[str], *columns: Sequence[Any] | Tensor) -> None:
        """Keep the values of B studies.

        Args:
            ids: B study ids.
            columns: each B values, or a tensor `(B, ...)`, which is copied to the CPU.

        Raises:
            ValueError: a column does not have B entries.
        """
        lengths = [len(column) for column in columns]
        if any(length != len(ids) for length in lengths):
            raise ValueError(f"Expected as many entries as the {len(ids)} `ids` in each column, but got {lengths}.")
        copies = (c.detach().to("cpu", copy=True) if isinstance(c, Tensor) else list(c) for c in columns)
        if ids:
            self._batches.append((list(ids), *copies))

    def compute(self) -> dict[str, Tensor]:
        """The scores of the split, 0-dim tensors (float64 if the device has it); empty if no study was seen."""
        scores, self._details = on_first_rank(self._score) if self._is_synced else self._score()
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return {name: torch.tensor(value, dtype=dtype, device=self.device) for name, value in scores.items()}

    def _score(self) -> tuple[dict[str, float], Details | None]:
        if not self._batches:
            return {}, None
        ids, *columns = zip(*self._batches, strict=True)
        all_ids = [study for batch in ids for study in batch]
        kept = first_of_each(all_ids)
        return self.score([all_ids[i] for i in kept], *(_join(column, kept) for column in columns))

    def reset(self) -> None:
        """Forget all studies."""
        super().reset()
        self._batches = []
        self._details = None

    def _copy_state_dict(self) -> dict[str, Any]:
        """The state that torchmetrics restores after a synchronised `compute` and after `forward`; batches never change."""
        return {"_batches": list(self._batches)}

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Gather the batches of all ranks; their numbers may differ, and may be 0."""
        gathered: list[list[tuple[Any, ...]]] = [[] for _ in range(dist.get_world_size(process_group))]
        dist.all_gather_object(gathered, self._batches, group=process_group)
        self._batches = [batch for batches in gathered for batch in batches]


def _join(column: Sequence[Any], kept: list[int]) -> Any:
    """One column over all batches, reduced to the kept entries."""
    if isinstance(column[0], Tensor):
        return torch.cat(tuple(column))[kept]
    flat = [entry for batch in column for entry in batch]
    return [flat[i] for i in kept]
