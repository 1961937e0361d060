"""Whether another validation than that of the chosen checkpoint is better in most scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from hardneg_plugin.runs.checkpoint import Moment
from hardneg_plugin.runs.csv_log import LoggedRow
from hardneg_plugin.training.callbacks import mode_of

SHOWN = 3
"""Scores that the warning quotes."""


@dataclass(frozen=True)
class BetterEpoch:
    """A validation that is better than the chosen one in more than half of the other scores in which they differ.

    >>> print(BetterEpoch("val/BLEU-4", "epoch 1", "epoch 4", {"val/BLEU-4": (0.2125, 0.2117)}, {"val/R@5": (0.05, 0.52)}, 1))
    best.ckpt is of epoch 1, by val/BLEU-4 (0.2125, in epoch 4 0.2117), but epoch 4 is better in 1 of 1 other scores that differ: \
val/R@5 0.520 against 0.050. Another monitor= may choose better.
    """

    monitor: str
    """The score that chose."""
    chosen: str
    """The epoch, from 1; with the validation in it where it has several, as in "epoch 1 (validation 2 of 4)"."""
    other: str
    """Likewise."""
    by: dict[str, tuple[float, float]]
    """The monitor's values in both; empty where it was not logged."""
    better: dict[str, tuple[float, float]]
    """The scores in which the other one is better, in both."""
    compared: int
    """In how many scores they differ."""

    def __str__(self) -> str:
        by = "".join(f" ({a:.4f}, in {self.other} {b:.4f})" for a, b in self.by.values())
        by_gain = sorted(self.better.items(), key=lambda pair: -abs(pair[1][1] - pair[1][0]) / max(map(abs, pair[1])))
        some = [f"{name} {b:.3f} against {a:.3f}" for name, (a, b) in by_gain[:SHOWN]]
        return (
            f"best.ckpt is of {self.chosen}, by {self.monitor}{by}, but {self.other} is better in "
            f"{len(self.better)} of {self.compared} other scores that differ: {', '.join(some)}. "
            "Another monitor= may choose better."
        )


def better_epoch(rows: Sequence[LoggedRow], chosen: Moment, monitor: str, names: Sequence[str]) -> BetterEpoch | None:
    """The validation that is better in most scores than the chosen one; None if there is none.

    Args:
        rows: what the run logged; where a step was logged twice, as in a resumed run, the later one counts.
        chosen: when the checkpoint was written. Where it does not say after which validation, that is the last of its epoch.
        monitor: the score that chose it.
        names: of the scores that count, without "val/"; `metrics.directions` says which are better where they are lower.
    """
    validations: dict[tuple[int, int], dict[str, float]] = {}  # by epoch and logged step
    for row in rows:
        scores = {name: value for name, value in row.values.items() if name.startswith("val/")}
        if row.epoch is not None and scores:
            validations.setdefault((row.epoch + 1, row.step), {}).update(scores)
    steps = {epoch: sorted(step for of, step in validations if of == epoch) for epoch, _ in validations}
    if chosen.epoch not in steps:
        return None
    of_epoch = steps[chosen.epoch]
    own_key = (chosen.epoch, chosen.logged_step if chosen.logged_step in of_epoch else of_epoch[-1])

    def in_words(key: tuple[int, int]) -> str:
        epoch, step = key
        several = len(steps[epoch]) > 1
        return f"epoch {epoch}" + f" (validation {steps[epoch].index(step) + 1} of {len(steps[epoch])})" * several

    own = validations.pop(own_key)
    found = None
    for key, scores in sorted(validations.items()):
        shared = [name for each in names if (name := f"val/{each}") in own and name in scores and name != monitor]
        differ = [name for name in shared if scores[name] != own[name]]  # a model that collapsed repeats most of them
        better = {name: (own[name], scores[name]) for name in differ if _is_better(name, scores[name], own[name])}
        if len(better) > max(len(differ) / 2, 0 if found is None else len(found.better)):
            by = {monitor: (own[monitor], scores[monitor])} if monitor in own and monitor in scores else {}
            found = BetterEpoch(monitor, in_words(own_key), in_words(key), by, better, len(differ))
    return found


def _is_better(name: str, value: float, than: float) -> bool:
    return value < than if mode_of(name) == "min" else value > than
