"""The forest plot of a comparison: how each variant differs from the baseline, and pairs from each other."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hardneg_plugin.comparison.comparison import Comparison, Contrast
from hardneg_plugin.comparison.settings import ALPHA
from hardneg_plugin.comparison.verdicts import is_found

WIDTH = 10.0
"""Inches: as wide as a page, so that the text stays legible."""
COLOURS = {True: "#0072B2", False: "0.45"}
"""Of a difference that is found, and of one that is not."""


def forest_figure(comparison: Comparison, split: str) -> Figure | None:
    """For each measure a row per contrast: the difference with its interval, and that of each seed as a dot.

    A difference that is found (`verdicts.is_found`) is filled. None without any contrast.

    Args:
        comparison: gives the differences and the scores of each run.
        split: "val" or "test".
    """
    contrasts = [*comparison.against_baseline(split), *comparison.splits[split].pairs]
    if not contrasts:
        return None
    measures = comparison.measures_on(split)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.32 * len(contrasts)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axes, measure in zip(panels, measures, strict=True):
        for row, contrast in enumerate(contrasts):
            _draw(axes, row, comparison, split, contrast, measure)
        axes.axvline(0, color="0.2", linewidth=0.8, zorder=0)
        if 0 < len(contrasts) - len(comparison.splits[split].pairs) < len(contrasts):
            axes.axhline(len(comparison.against_baseline(split)) - 0.5, color="0.8", linewidth=0.8, zorder=0)
        axes.set_title(measure, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    labels = [f"{contrast.variant} − {contrast.other}" for contrast in contrasts]
    panels[0].set_yticks(range(len(contrasts)), labels)
    panels[0].set_ylim(len(contrasts) - 0.4, -0.6)  # the first contrast on top
    figure.supxlabel(
        f"Difference on {split} ({comparison.splits[split].studies} studies) with its {round(100 * (1 - ALPHA))} % interval over "
        f"studies and seeds; dots: seeds. Filled: interval off zero, and p < {ALPHA} after correction.",
        fontsize=8,
    )
    return figure


def _draw(axes: Axes, row: int, comparison: Comparison, split: str, contrast: Contrast, measure: str) -> None:
    compared = contrast.differences[measure]
    found = is_found(compared)
    colour = COLOURS[found]
    seeds = comparison.seed_differences(split, contrast, measure)
    axes.plot(seeds, [row + 0.28] * len(seeds), "o", color=colour, markersize=2.5, alpha=0.7, markeredgewidth=0)
    axes.plot([compared.low, compared.high], [row, row], color=colour, linewidth=1.5, solid_capstyle="butt")
    face = colour if found else "white"
    axes.plot([compared.difference], [row], "D", color=colour, markersize=5, markerfacecolor=face)
