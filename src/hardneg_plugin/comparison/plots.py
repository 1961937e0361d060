"""Plots of a comparison: scores with their intervals, and validation curves with their spread over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hardneg_plugin.comparison.comparison import Comparison
from hardneg_plugin.comparison.curves import COLOURS, Curves, curves_csv, curves_figure, names_of
from hardneg_plugin.comparison.forest import WIDTH, forest_figure
from hardneg_plugin.files import whole_file, whole_text_file

FORMATS = ("svg", "png")
ALWAYS = ("BLEU-4", "report_loss")
"""Shown beside the curves of the measures."""


def write_plots(comparison: Comparison, curves: Mapping[str, Sequence[Curves]], folder: Path) -> list[Path]:
    """Write all plots, each as SVG and PNG, and the values of the curves as CSV; the same values give the same SVG.

    Args:
        comparison: gives the scores, their intervals, and the names of measures and variants.
        curves: by variant, those of each run.
        folder: where to write; made if missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"scores_{split}": scores_figure(comparison, split) for split in comparison.splits}
    forests = {f"differences_{split}": forest_figure(comparison, split) for split in comparison.splits}
    figures |= {name: figure for name, figure in forests.items() if figure is not None}
    names = names_of(curves)
    chosen = [
        name for name in (f"val/{name}" for name in dict.fromkeys((*comparison.measures, *ALWAYS))) if name in names
    ]
    if chosen:
        figures["curves"] = curves_figure(curves, chosen, columns=3)
    written = []
    if names:
        figures["curves_all"] = curves_figure(curves, names, columns=5)
        written.append(folder / "curves.csv")
        with whole_text_file(written[0]) as table:
            table.write(curves_csv(curves))
    with matplotlib.rc_context({"svg.hashsalt": "hardneg_plugin"}):
        for name, figure in figures.items():
            for kind in FORMATS:
                path = folder / f"{name}.{kind}"
                with whole_file(path) as file:
                    metadata = {"Date": None} if kind == "svg" else {}
                    figure.savefig(file, format=kind, dpi=150, metadata=metadata)
                written.append(path)
    return written


def scores_figure(comparison: Comparison, split: str) -> Figure:
    """For each measure a row per variant: the mean over seeds with its interval, and the seeds as dots.

    Args:
        comparison: gives the scores and their intervals.
        split: "val" or "test".
    """
    measures, variants = comparison.measures_on(split), list(comparison.variants)
    figure = Figure(figsize=(min(4.5 * len(measures), 3 * WIDTH / 2), 1.2 + 0.45 * len(variants)), layout="constrained")
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures), sharey=True)), measures, strict=True):
        for row, variant in enumerate(variants):
            values = comparison.scores(variant, split, measure)
            low, high = comparison.splits[split].intervals[variant][measure]
            colour = COLOURS[row % len(COLOURS)]
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot([np.mean(values)], [row], "D", color=colour, markersize=7)
            axes.plot(values, [row + 0.2] * len(values), "o", color=colour, markersize=4, alpha=0.6)
        axes.axvline(
            float(np.mean(comparison.scores(comparison.baseline, split, measure))), color="0.6", linewidth=1, zorder=0
        )
        axes.set_yticks(range(len(variants)), variants)
        axes.set_xlabel(f"{measure}, {split}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(len(variants) - 0.4, -0.6)  # the first variant on top
    return figure
