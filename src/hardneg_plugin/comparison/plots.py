"""Plots of a comparison: scores with their intervals, and validation curves with their spread over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hardneg_plugin.comparison.comparison import Comparison
from hardneg_plugin.comparison.forest import WIDTH, forest_figure
from hardneg_plugin.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct for colour-blind readers too (Okabe and Ito); lines also differ in their dashes."""
DASHES = ("-", "--", "-.", ":")
FORMATS = ("svg", "png")
ALWAYS = ("BLEU-4", "report_loss")
"""Shown beside the curves of the measures."""

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""The validation curves of a run: by name points (step, value)."""


def write_plots(comparison: Comparison, curves: Mapping[str, Sequence[Curves]], folder: Path) -> list[Path]:
    """Write all plots, each as SVG and PNG; the same values give the same SVG.

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
    if (of_curves := curves_figure(comparison, curves)) is not None:
        figures["curves"] = of_curves
    written = []
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


def curves_figure(comparison: Comparison, curves: Mapping[str, Sequence[Curves]]) -> Figure | None:
    """Validation scores over training steps: the mean over seeds, and the range; None without any curve.

    Args:
        comparison: names the measures and the variants.
        curves: by variant, those of each run.
    """
    wanted = dict.fromkeys(f"val/{name}" for name in (*comparison.measures, *ALWAYS))
    names = [name for name in wanted if any(run.get(name) for runs in curves.values() for run in runs)]
    if not names:
        return None
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for place, variant in enumerate(comparison.variants):
            _draw(axes, variant, [run.get(name, []) for run in curves[variant]], place)
        axes.set_xlabel("step")
        axes.set_title(name, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize="small", frameon=False)
    return figure


def _draw(axes: Axes, variant: str, curves: Sequence[Sequence[tuple[int, float]]], place: int) -> None:
    """One variant at the steps that all its seeds have; a run may have stopped early."""
    by_step = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*map(set, by_step)))
    if not steps:
        return
    values = np.array([[points[step] for step in steps] for points in by_step])
    colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values.mean(axis=0), color=colour, linestyle=dash, marker=marker, label=variant)
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
