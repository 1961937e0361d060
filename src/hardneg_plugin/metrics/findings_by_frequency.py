"""F1 of the findings that are common, medium and rare in the references, and the mean F1 over all of them."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from hardneg_plugin.metrics.findings import Findings
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic

THIRDS = ("common", "medium", "rare")


def thirds(references: Sequence[Findings]) -> dict[str, list[str]]:
    """The names of the findings of N references by their frequency, a third of the names each; the first thirds may have one more.

    >>> thirds([frozenset({("effusion", "left"), ("mass", "")}), frozenset({("effusion", "right")}), frozenset()])
    {'common': ['effusion'], 'medium': ['mass'], 'rare': []}
    """
    counts = Counter(name for findings in references for name in {name for name, _ in findings})
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return {third: [names[i] for i in part] for third, part in zip(THIRDS, _split(len(names)), strict=True)}


def frequency_scores(generated: Sequence[Findings], references: Sequence[Findings]) -> ScoreCard:
    """F1 by name over N studies: micro within each third of the findings, "findings_F1_rare" and so on, and "findings_macro_F1".

    What no reference states counts as rare. The macro F1 is the mean over the findings that references state. A third without
    any finding scores 0.

    Args:
        generated: the findings of N generated reports.
        references: those of N references; they alone decide what is rare, the same for all models.
    """
    column = {name: i for i, name in enumerate(name for part in thirds(references).values() for name in part)}
    rows = np.zeros((len(references), len(column) + 1, 3))  # the last column: what no reference states
    for row, findings in zip(rows, zip(generated, references, strict=True), strict=True):
        stated, true = ({name for name, _ in of} for of in findings)
        for kind, names in enumerate((stated & true, stated - true, true - stated)):
            for name in names:
                row[column.get(name, -1), kind] += 1
    statistic = SumStatistic(rows.reshape(len(rows), -1), partial(_scores, len(column)))
    return ScoreCard(statistic.values(), statistics=[statistic])


def _split(count: int) -> list[list[int]]:
    return [part.tolist() for part in np.array_split(np.arange(count), len(THIRDS))]


def _scores(names: int, sums: Floats) -> dict[str, Floats]:
    counts = sums.reshape(*sums.shape[:-1], names + 1, 3)
    common, medium, rare = _split(names)
    parts = zip(THIRDS, (common, medium, [*rare, names]), strict=True)
    scores = {f"findings_F1_{third}": _f1(counts[..., part, :].sum(axis=-2)) for third, part in parts}
    of_names = counts[..., :names, :]
    is_true = of_names[..., 0] + of_names[..., 2] > 0  # in studies drawn at random, a rare finding may be missing
    macro = (_f1(of_names) * is_true).sum(axis=-1) / np.maximum(is_true.sum(axis=-1), 1)
    return {**scores, "findings_macro_F1": macro}


def _f1(counts: Floats) -> Floats:
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    return np.asarray(2 * tp / np.maximum(2 * tp + fp + fn, 1))
