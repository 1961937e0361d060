"""Validation scores by epoch: the mean over the seeds of a variant, and their range."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hardneg_plugin.runs.csv_log import read_csv_log
from hardneg_plugin.runs.folder import RunFolder

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct for colour-blind readers too (Okabe and Ito); lines also differ in their dashes."""
DASHES = ("-", "--", "-.", ":")
WIDTH = 12.0
"""Inches of a figure."""

Curves = Mapping[str, Mapping[int, float]]
"""The validation scores of a run: by name and number of epochs trained."""


def validation_curves(run: RunFolder) -> dict[str, dict[int, float]]:
    """The validation scores of a run by name, such as "val/BLEU-4", and number of epochs trained, from 1.

    Of several validations in an epoch the last counts.

    Raises:
        UserError: its log is no table of numbers.
    """
    curves: dict[str, dict[int, float]] = {}
    for row in read_csv_log(run):
        for name, value in row.values.items():
            if name.startswith("val/") and row.epoch is not None:
                curves.setdefault(name, {})[row.epoch + 1] = value
    return curves


def names_of(curves: Mapping[str, Sequence[Curves]]) -> list[str]:
    """The scores that some run has, sorted."""
    return sorted({name for runs in curves.values() for run in runs for name in run})


def spread_over_seeds(runs: Sequence[Curves], name: str) -> list[tuple[int, float, float, float]]:
    """By epoch the mean of a score, the lowest and the highest, of the epochs that all runs have; one may have stopped early.

    Args:
        runs: of one variant.
        name: of the score.

    >>> spread_over_seeds([{"val/CIDEr": {1: 0.25, 2: 0.5}}, {"val/CIDEr": {1: 0.75}}], "val/CIDEr")
    [(1, 0.5, 0.25, 0.75)]
    """
    each = [run.get(name, {}) for run in runs]
    epochs = sorted(set.intersection(*map(set, each)))
    values = [[of_run[epoch] for of_run in each] for epoch in epochs]
    return [(epoch, float(np.mean(v)), min(v), max(v)) for epoch, v in zip(epochs, values, strict=True)]


def curves_csv(curves: Mapping[str, Sequence[Curves]]) -> str:
    """A table with a row for each score, variant and epoch."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["score", "variant", "epoch", "seeds", "mean", "lowest", "highest"])
    for name in names_of(curves):
        for variant, runs in curves.items():
            for epoch, *values in spread_over_seeds(runs, name):
                table.writerow([name, variant, epoch, len(runs), *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def curves_figure(curves: Mapping[str, Sequence[Curves]], names: Sequence[str], columns: int) -> Figure:
    """A panel for each score: the mean over seeds as a line, the range as a band.

    Args:
        curves: by variant, those of each run.
        names: of the scores, at least one.
        columns: panels side by side, at most.
    """
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    width = WIDTH / columns if columns > 2 else 4.5
    figure = Figure(figsize=(width * columns, 0.7 * width * rows + 0.8), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes, name in zip(panels, names, strict=False):
        for place, (variant, runs) in enumerate(curves.items()):
            _draw(axes, variant, spread_over_seeds(runs, name), place)
        axes.set_title(name, fontsize="small")
        axes.tick_params(labelsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize="small")
    lines = {str(line.get_label()): line for axes in panels[: len(names)] for line in axes.get_lines()}
    figure.legend(
        [lines[variant] for variant in curves if variant in lines],
        [variant for variant in curves if variant in lines],
        loc="outside upper center",
        ncols=6,
        fontsize="small",
        frameon=False,
    )
    return figure


def _draw(axes: Axes, variant: str, points: Sequence[tuple[int, float, float, float]], place: int) -> None:
    if not points:
        return
    epochs, means, lowest, highest = (list(column) for column in zip(*points, strict=True))
    colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, means, color=colour, linestyle=dash, marker=marker, label=variant, linewidth=1.2)
    axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.12, linewidth=0)
