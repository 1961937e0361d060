"""The tables of a comparison in Markdown and LaTeX, made from the values of comparison.json."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardneg_plugin.comparison.comparison import OVER_BOTH, USUAL, Comparison, Contrast, VariantDifference
from hardneg_plugin.comparison.settings import ALPHA
from hardneg_plugin.comparison.verdicts import cautions, choice, corrected_p_value, raw_p_value, verdicts, word_of
from hardneg_plugin.metrics.directions import with_direction
from hardneg_plugin.metrics.score_names import OF_TASKS

SPLIT_ORDER = ("test", "val")
METHOD = (
    "Intervals ({percent} %) of differences: studies and seeds resampled in pairs. p: {p_values}, as corrected by Holm for all "
    "comparisons of one split. {resamples} draws."
)
FROM_THE_SAME_DRAWS = "from the same draws"
OVER_STUDIES_ALONE = (
    "paired approximate randomisation over studies alone, left out where it is small and the interval contains zero"
)


@dataclass(frozen=True)
class Table:
    """Cells as texts; the first column holds the names of the rows."""

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(comparison: Comparison) -> list[Table]:
    """All tables: scores and differences on test, then on val, then costs."""
    found = []
    for split in SPLIT_ORDER:
        found.append(scores_table(comparison, split))
        for contrasts, of in (
            (comparison.against_baseline(split), f"from {comparison.baseline}"),
            (comparison.splits[split].pairs, "between pairs"),
        ):
            if contrasts:
                found.append(differences_table(comparison, split, contrasts, f"Difference {of} on {split}"))
                title = f"Other differences {of} on {split}, not corrected"
                found.append(other_differences_table(comparison, split, contrasts, title))
    return [*found, cost_table(comparison)]


def scores_table(comparison: Comparison, split: str) -> Table:
    """Means over seeds with their standard deviations, one variant per row.

    Args:
        comparison: the comparison.
        split: "val" or "test".
    """
    names = [
        name
        for name in (*comparison.measures, *_beside(comparison, split))
        if any(comparison.scores(variant, split, name) for variant in comparison.variants)
    ]
    rows = [
        [variant, *(mean_and_deviation(comparison.scores(variant, split, name)) for name in names)]
        for variant in comparison.variants
    ]
    seeds = comparison.number_of_seeds
    over = "one seed" if seeds == "1" else f"mean ± standard deviation over {seeds} seeds"
    title = f"Scores on {split} ({comparison.splits[split].studies} studies), {over}"
    return Table(title, ["variant", *map(with_direction, names)], rows)


def _beside(comparison: Comparison, split: str) -> list[str]:
    """The scores beside the measures that count: the usual ones, and those of downstream tasks."""
    of_tasks = {
        name for result in comparison.variants.values() for name in result.scores[split] if OF_TASKS.fullmatch(name)
    }
    return [name for name in (*USUAL, *sorted(of_tasks)) if name not in comparison.measures]


def differences_table(comparison: Comparison, split: str, contrasts: Sequence[Contrast], title: str) -> Table:
    """The measures that count: their spread over seeds, and the difference of each contrast.

    Args:
        comparison: the comparison.
        split: "val" or "test".
        contrasts: a row for each and each measure.
        title: that of the table.
    """
    rows = []
    for contrast in contrasts:
        for measure in comparison.measures_on(split):
            values, compared = comparison.scores(contrast.variant, split, measure), contrast.differences[measure]
            assert compared.corrected is not None
            rows.append(
                [
                    _label(comparison, contrast),
                    measure,
                    f"{np.mean(values):.3f}",
                    f"{min(values):.3f} to {max(values):.3f}",
                    f"{compared.difference:+.3f}",
                    f"{compared.low:+.3f} to {compared.high:+.3f}",
                    _without_p(raw_p_value(compared, comparison.floor)),
                    _without_p(corrected_p_value(compared, comparison.floor)),
                    word_of(compared),
                ]
            )
    header = ["variant", "measure", "mean", "over seeds", "difference", "interval", "p", "corrected", "verdict"]
    return Table(title, header, rows)


def _without_p(text: str | None) -> str:
    """A p-value for a column that is headed p."""
    return "-" if text is None else text.removeprefix("p ").removeprefix("= ")


def other_differences_table(comparison: Comparison, split: str, contrasts: Sequence[Contrast], title: str) -> Table:
    """The other scores: differences with their intervals, without a verdict.

    Args:
        comparison: the comparison.
        split: "val" or "test".
        contrasts: a row for each.
        title: that of the table.
    """
    names = [name for name in _beside(comparison, split) if any(name in contrast.differences for contrast in contrasts)]
    rows = [
        [_label(comparison, contrast), *(_with_interval(contrast.differences.get(name)) for name in names)]
        for contrast in contrasts
    ]
    return Table(title, ["variant", *map(with_direction, names)], rows)


def _label(comparison: Comparison, contrast: Contrast) -> str:
    against = "" if contrast.other == comparison.baseline else f" against {contrast.other}"
    return f"{contrast.variant}{against}"


def cost_table(comparison: Comparison) -> Table:
    """Seconds of training, and parameters."""
    baseline = comparison.variants[comparison.baseline]
    rows = []
    for variant, result in comparison.variants.items():
        own, base = ([known for known in one.seconds if known is not None] for one in (result, baseline))
        parameters = result.parameters
        rows.append(
            [
                variant,
                f"{np.mean(own):.1f}" if own else "-",
                f"{np.mean(own) / np.mean(base):.2f}" if own and base and np.mean(base) > 0 else "-",
                *(f"{parameters[key]:,}" if key in parameters else "-" for key in ("inference", "training_only")),
            ]
        )
    header = ["variant", "seconds", f"of {comparison.baseline}", "parameters", "in training only"]
    return Table("Cost: seconds of training per run never resumed, and parameters", header, rows)


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown document."""
    parts = [f"# {' · '.join(comparison.variants)}", choice(comparison)]
    parts += ["\n".join(f"- {line}" for line in verdicts(comparison, "test"))] if len(comparison.variants) > 1 else []
    parts += ["\n".join(f"- {_in_cell(line)}" for line in cautions(comparison))]
    for table in tables(comparison):
        parts.append(f"## {table.title}\n\n{markdown_table(table)}")
    parts.append(_method(comparison))
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown, without its title."""
    lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows]
    return "\n".join(f"| {' | '.join(map(_in_cell, line))} |" for line in lines)


def latex(comparison: Comparison) -> str:
    """The tables as LaTeX floats, for a document that loads booktabs."""
    parts = [f"% {_method(comparison)}"]
    parts += [f"% {line}" for line in (choice(comparison), *cautions(comparison))]
    for table in tables(comparison):
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            _latex_row(table.header),
            r"\midrule",
            *map(_latex_row, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _method(comparison: Comparison) -> str:
    p_values = FROM_THE_SAME_DRAWS if comparison.p_values_over == OVER_BOTH else OVER_STUDIES_ALONE
    return METHOD.format(percent=round(100 * (1 - ALPHA)), p_values=p_values, resamples=comparison.resamples)


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean over seeds, with the standard deviation where there are several.

    >>> mean_and_deviation([0.25, 0.35]), mean_and_deviation([0.25]), mean_and_deviation([])
    ('0.300 ± 0.071', '0.250', '-')
    """
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


def _with_interval(compared: VariantDifference | None) -> str:
    if compared is None:
        return "-"
    return f"{compared.difference:+.3f} ({compared.low:+.3f} to {compared.high:+.3f})"


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$",
}  # fmt: skip


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_in_latex, cells)) + r" \\"


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
