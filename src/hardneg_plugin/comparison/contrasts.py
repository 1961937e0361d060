"""Pairs of variants compared under the seeds that both have, with p-values that are corrected together."""

from collections.abc import Mapping, Sequence

from hardneg_plugin.comparison.comparison import Contrast, VariantDifference, is_shown
from hardneg_plugin.comparison.settings import ALPHA
from hardneg_plugin.metrics.significance import compare, holm
from hardneg_plugin.metrics.statistics import Statistic

StatisticsOfSeeds = Mapping[int, Sequence[Statistic]]
"""By seed those of one run; all runs are over the same studies in the same order."""


def compare_pairs(
    statistics: Mapping[str, StatisticsOfSeeds],
    asked: Sequence[tuple[str, str]],
    measures: Sequence[str],
    resamples: int,
) -> list[Contrast]:
    """Compare variants with others.

    Args:
        statistics: by variant.
        asked: each variant with the one that it is compared with; they share at least one seed.
        measures: scores whose p-values are corrected by Holm, over all that is asked.
        resamples: draws for intervals and p-values, >= 1.

    >>> from hardneg_plugin.metrics.statistics import means
    >>> good, bad = ([means({"specificity": [score] * 20})] for score in (1.0, 0.0))
    >>> (found,) = compare_pairs({"host": {1: bad, 2: bad}, "arc": {2: good}}, [("arc", "host")], ["specificity"], 100)
    >>> found.differences["specificity"].difference
    1.0
    """
    found = []
    for variant, other in asked:
        shared = [seed for seed in statistics[variant] if seed in statistics[other]]
        ours, theirs = ([statistics[name][seed] for seed in shared] for name in (variant, other))
        found.append(compare(ours, theirs, resamples=resamples, level=1 - ALPHA))
    family = [(place, measure) for place in range(len(asked)) for measure in measures]
    p_values = holm([found[place][measure].p_value for place, measure in family])
    corrected = dict(zip(family, p_values, strict=True))
    return [
        Contrast(
            *pair,
            {
                name: VariantDifference(d.difference, d.low, d.high, d.p_value, corrected.get((place, name)))
                for name, d in found[place].items()
                if is_shown(name, measures)
            },
        )
        for place, pair in enumerate(asked)
    ]
