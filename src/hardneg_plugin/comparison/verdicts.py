"""A comparison in sentences: which variants differ from the baseline, and what limits the figures."""

from collections.abc import Iterator

import numpy as np

from hardneg_plugin.comparison.comparison import ALPHA, Comparison, VariantDifference

FEW_STUDIES = 100
FEW_SEEDS = 5


def verdict(compared: VariantDifference) -> str:
    """One difference in words: better or worse only where the corrected p-value and the interval agree.

    >>> verdict(VariantDifference(difference=0.004, low=-0.01, high=0.018, p_value=0.31, corrected=0.61))
    'no difference found: +0.004 (-0.010 to +0.018), p = 0.610 after correction'
    """
    word = ("better" if compared.low > 0 else "worse") if is_found(compared) else "no difference found"
    after = "" if compared.corrected is None else " after correction"
    p_value = format_p_value(_corrected(compared))
    return f"{word}: {compared.difference:+.3f} ({compared.low:+.3f} to {compared.high:+.3f}), {p_value}{after}"


def is_found(compared: VariantDifference) -> bool:
    """Whether the corrected p-value is below `ALPHA` and the interval off zero."""
    return _corrected(compared) < ALPHA and (compared.low > 0 or compared.high < 0)


def _corrected(compared: VariantDifference) -> float:
    return compared.p_value if compared.corrected is None else compared.corrected


def format_p_value(p_value: float) -> str:
    """A p-value as a text.

    >>> format_p_value(0.0004), format_p_value(0.05)
    ('p < 0.001', 'p = 0.050')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def verdicts(comparison: Comparison, split: str) -> list[str]:
    """A sentence for each variant against the baseline, each pair, and each measure that counts.

    Args:
        comparison: the comparison.
        split: "val" or "test".
    """
    return [
        f"{contrast.variant} against {contrast.other}, {measure} on {split}: {verdict(contrast.differences[measure])}."
        for contrast in (*comparison.against_baseline(split), *comparison.splits[split].pairs)
        for measure in comparison.measures_on(split)
    ]


def choice(comparison: Comparison) -> str:
    """Which variant is best on val, and its score on test."""
    chosen, measure = comparison.chosen, comparison.chosen_by
    on_val, on_test = (float(np.mean(comparison.scores(chosen, split, measure))) for split in ("val", "test"))
    sentence = f"Best on val by {measure} (mean over seeds): {chosen}, {on_val:.3f}; on test it has {on_test:.3f}"
    if chosen == comparison.baseline:
        return f"{sentence}. It is the baseline."
    return (
        f"{sentence}, against {comparison.baseline} {verdict(comparison.splits['test'].differences[chosen][measure])}."
    )


def cautions(comparison: Comparison) -> Iterator[str]:
    """What limits the figures: the comparison's notes, few seeds, few studies."""
    yield from comparison.notes
    seeds = comparison.number_of_seeds
    if seeds == "1":
        yield (
            "Only one seed: intervals and p-values cover the choice of studies, not the spread between trainings. Train under more "
            "seeds before claiming a difference."
        )
    elif min(len(result.seeds) for result in comparison.variants.values()) < FEW_SEEDS:
        yield f"Only {seeds} seeds: the spread between trainings is a rough estimate."
    for name, split in comparison.splits.items():
        if split.studies < FEW_STUDIES:
            yield (
                f"Only {split.studies} studies on {name}: intervals are wide, and a difference that is not found may still exist."
            )
