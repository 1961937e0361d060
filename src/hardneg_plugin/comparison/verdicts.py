"""A comparison in sentences: which variants differ from the baseline, and what limits the figures."""

import math
from collections.abc import Iterator

import numpy as np

from hardneg_plugin.comparison.comparison import Comparison, VariantDifference
from hardneg_plugin.comparison.settings import ALPHA

FEW_STUDIES = 100
FEW_SEEDS = 5


def verdict(compared: VariantDifference, floor: float = 0.0) -> str:
    """One difference in words: better or worse only where the corrected p-value and the interval agree.

    Args:
        compared: the difference.
        floor: the smallest p-value that its draws can give, see `Comparison.floor`.

    >>> verdict(VariantDifference(difference=0.004, low=-0.01, high=0.018, p_value=0.31, corrected=0.61))
    'no difference found: +0.004 (-0.010 to +0.018), p = 0.610 after correction'
    """
    text = f"{word_of(compared)}: {compared.difference:+.3f} ({compared.low:+.3f} to {compared.high:+.3f})"
    p_value = corrected_p_value(compared, floor)
    after = "" if compared.corrected is None else " after correction"
    return text if p_value is None else f"{text}, {p_value}{after}"


def word_of(compared: VariantDifference) -> str:
    """The verdict alone: "better", "worse" or "no difference found"."""
    return ("better" if compared.low > 0 else "worse") if is_found(compared) else "no difference found"


def is_found(compared: VariantDifference) -> bool:
    """Whether the corrected p-value is below `ALPHA` and the interval off zero."""
    return _corrected(compared) < ALPHA and (compared.low > 0 or compared.high < 0)


def _corrected(compared: VariantDifference) -> float:
    return compared.p_value if compared.corrected is None else compared.corrected


def raw_p_value(compared: VariantDifference, floor: float) -> str | None:
    """The p-value before correction as a text; None where it does not go with the interval.

    In comparisons whose p-values are over studies alone (`Comparison.p_values_over`), p may be small where the interval over
    studies and seeds contains zero. Then the interval decides, and is shown alone.

    Args:
        compared: the difference.
        floor: as of `verdict`.
    """
    return _text(compared, compared.p_value, floor)


def corrected_p_value(compared: VariantDifference, floor: float) -> str | None:
    """The corrected p-value as a text, or that before correction where there is no other; None as of `raw_p_value`.

    Args:
        compared: the difference.
        floor: as of `verdict`.
    """
    return _text(compared, _corrected(compared), floor)


def _text(compared: VariantDifference, p_value: float, floor: float) -> str | None:
    if p_value < ALPHA and compared.low <= 0 <= compared.high:
        return None
    return format_p_value(p_value, is_bound=compared.p_value <= floor)


def format_p_value(p_value: float, is_bound: bool = False) -> str:
    """A p-value as a text.

    Args:
        p_value: in [0, 1].
        is_bound: more draws may give a smaller one; it is rounded up.

    >>> format_p_value(0.0004), format_p_value(0.05), format_p_value(0.0081, is_bound=True), format_p_value(1.0)
    ('p < 0.001', 'p = 0.050', 'p <= 0.009', 'p = 1.000')
    """
    if p_value < 0.001:
        return "p < 0.001"
    return f"p <= {math.ceil(1000 * p_value - 1e-9) / 1000:.3f}" if is_bound and p_value < 1 else f"p = {p_value:.3f}"


def verdicts(comparison: Comparison, split: str) -> list[str]:
    """A sentence for each variant against the baseline, each pair, and each measure that counts.

    Args:
        comparison: the comparison.
        split: "val" or "test".
    """
    return [
        f"{contrast.variant} against {contrast.other}, {measure} on {split}: "
        f"{verdict(contrast.differences[measure], comparison.floor)}."
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
    compared = comparison.splits["test"].differences[chosen][measure]
    return f"{sentence}, against {comparison.baseline} {verdict(compared, comparison.floor)}."


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
    smallest = comparison.floor * max(map(comparison.number_of_tests, comparison.splits))
    if smallest >= ALPHA:
        yield (
            f"With {comparison.resamples} draws no corrected p-value is below {smallest:.3f}, so nothing can be found: set "
            "compare.resamples higher."
        )
    for name, split in comparison.splits.items():
        if split.studies < FEW_STUDIES:
            yield (
                f"Only {split.studies} studies on {name}: intervals are wide, and a difference that is not found may still exist."
            )
