"""Whether another epoch than that of the chosen checkpoint is better in most validation scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from hardneg_plugin.runs.csv_log import LoggedRow
from hardneg_plugin.training.callbacks import mode_of

SHOWN = 3
"""Scores that the warning quotes."""


@dataclass(frozen=True)
class BetterEpoch:
    """An epoch that is better than the chosen one in more than half of the other scores in which they differ.

    >>> print(BetterEpoch("val/BLEU-4", 1, 4, {"val/BLEU-4": (0.2125, 0.2117)}, {"val/R@5": (0.05, 0.52)}, 1))
    best.ckpt is of epoch 1, by val/BLEU-4 (0.2125, in epoch 4 0.2117), but epoch 4 is better in 1 of 1 other scores that differ: \
val/R@5 0.520 against 0.050. Another monitor= may choose better.
    """

    monitor: str
    """The score that chose."""
    chosen: int
    """From 1."""
    other: int
    """From 1."""
    by: dict[str, tuple[float, float]]
    """Its values in both epochs; empty where it was not logged."""
    better: dict[str, tuple[float, float]]
    """The scores in which the other one is better, in both epochs."""
    compared: int
    """In how many scores they differ."""

    def __str__(self) -> str:
        by = "".join(f" ({a:.4f}, in epoch {self.other} {b:.4f})" for a, b in self.by.values())
        by_gain = sorted(self.better.items(), key=lambda pair: -abs(pair[1][1] - pair[1][0]) / max(map(abs, pair[1])))
        some = [f"{name} {b:.3f} against {a:.3f}" for name, (a, b) in by_gain[:SHOWN]]
        return (
            f"best.ckpt is of epoch {self.chosen}, by {self.monitor}{by}, but epoch {self.other} is better in "
            f"{len(self.better)} of {self.compared} other scores that differ: {', '.join(some)}. "
            "Another monitor= may choose better."
        )


def better_epoch(rows: Sequence[LoggedRow], chosen: int, monitor: str, names: Sequence[str]) -> BetterEpoch | None:
    """The epoch that is better in most validation scores than the chosen one; None if there is none.

    Of several validations in an epoch the last counts.

    Args:
        rows: what the run logged.
        chosen: the epoch of the checkpoint, from 1.
        monitor: the score that chose it.
        names: of the scores that count, without "val/"; a loss is better where it is lower, any other score where it is higher.
    """
    epochs: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.epoch is not None:
            epochs.setdefault(row.epoch + 1, {}).update(
                (name, value) for name, value in row.values.items() if name.startswith("val/")
            )
    own = epochs.pop(chosen, {})
    found = None
    for epoch, scores in sorted(epochs.items()):
        shared = [name for each in names if (name := f"val/{each}") in own and name in scores and name != monitor]
        differ = [name for name in shared if scores[name] != own[name]]  # a model that collapsed repeats most of them
        better = {name: (own[name], scores[name]) for name in differ if _is_better(name, scores[name], own[name])}
        if len(better) > max(len(differ) / 2, 0 if found is None else len(found.better)):
            by = {monitor: (own[monitor], scores[monitor])} if monitor in own and monitor in scores else {}
            found = BetterEpoch(monitor, chosen, epoch, by, better, len(differ))
    return found


def _is_better(name: str, value: float, than: float) -> bool:
    return value < than if mode_of(name) == "min" else value > than
