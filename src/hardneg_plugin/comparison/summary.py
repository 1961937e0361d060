"""What a reader wants to see first: one table of scores and one of differences on test, in Markdown."""

from hardneg_plugin.comparison.comparison import Comparison, Contrast
from hardneg_plugin.comparison.settings import ALPHA
from hardneg_plugin.comparison.tables import Table, markdown_table, mean_and_deviation
from hardneg_plugin.comparison.verdicts import cautions, is_found

BESIDE = ("BLEU-4", "CIDEr", "unique_share")
"""Scores beside the measures that count."""
SPLIT = "test"


def summary(comparison: Comparison) -> str:
    """Scores and differences on test as a Markdown document."""
    seeds = comparison.number_of_seeds
    over = "one seed" if seeds == "1" else f"{seeds} seeds"
    interval = f"{round(100 * (1 - ALPHA))} % interval over studies and seeds"
    tests = comparison.number_of_tests(SPLIT)
    parts = [
        f"Test, {comparison.splits[SPLIT].studies} studies, {over}.",
        markdown_table(summary_of_scores(comparison)),
        f"Differences with their {interval}. Bold: off zero, and p < {ALPHA} after correction for {tests} comparisons. "
        f"{', '.join(BESIDE[:2])} are not corrected.",
        markdown_table(summary_of_differences(comparison)),
        "\n".join(f"- {line}" for line in cautions(comparison)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary_of_scores(comparison: Comparison) -> Table:
    """The measures that count and a few scores beside them, one variant per row; the number of seeds where it differs."""
    names = [
        name
        for name in dict.fromkeys((*comparison.measures_on(SPLIT), *BESIDE))
        if any(comparison.scores(variant, SPLIT, name) for variant in comparison.variants)
    ]
    rows = [
        [
            variant,
            *([str(len(result.seeds))] if _seeds_differ(comparison) else []),
            *(mean_and_deviation(comparison.scores(variant, SPLIT, name)) for name in names),
        ]
        for variant, result in comparison.variants.items()
    ]
    return Table("", ["variant", *(["seeds"] if _seeds_differ(comparison) else []), *names], rows)


def summary_of_differences(comparison: Comparison) -> Table:
    """Each contrast in a row; bold where a measure that counts differs."""
    contrasts = [*comparison.against_baseline(SPLIT), *comparison.splits[SPLIT].pairs]
    measures = comparison.measures_on(SPLIT)
    names = [
        name
        for name in dict.fromkeys((*measures, *BESIDE))
        if any(name in contrast.differences for contrast in contrasts)
    ]
    rows = [
        [_label(comparison, contrast), *(_cell(contrast, name, name in measures) for name in names)]
        for contrast in contrasts
    ]
    return Table("", ["difference", *names], rows)


def _label(comparison: Comparison, contrast: Contrast) -> str:
    name = f"{contrast.variant} - {contrast.other}"
    ours, theirs = (set(comparison.variants[variant].seeds) for variant in (contrast.variant, contrast.other))
    return f"{name} (one seed: studies alone)" if len(ours & theirs) == 1 and _seeds_differ(comparison) else name


def _seeds_differ(comparison: Comparison) -> bool:
    return len({tuple(result.seeds) for result in comparison.variants.values()}) > 1


def _cell(contrast: Contrast, name: str, counts: bool) -> str:
    if name not in contrast.differences:
        return "-"
    compared = contrast.differences[name]
    text = f"{compared.difference:+.3f} ({compared.low:+.3f} to {compared.high:+.3f})"
    return f"**{text}**" if counts and is_found(compared) else text
