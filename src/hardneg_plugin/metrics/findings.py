"""Precision, recall and F1 of the findings that generated reports state."""

from collections.abc import Hashable, Sequence, Set
from typing import Any

import numpy as np

from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic

Findings = frozenset[tuple[str, Hashable]]
"""A report's findings, each `(name, attributes)`."""

PREFIXES = ("findings", "findings_attributes")
"""Of scores by name, and by name with all attributes."""


def findings_counts(generated: Findings, reference: Findings) -> tuple[int, int, int, int, int, int]:
    """True positives, false positives and false negatives of one report: by name, then by name and attributes.

    By name, a finding counts once even if it is stated several times with different attributes.

    Args:
        generated: the findings of the generated report.
        reference: those of the reference.

    >>> findings_counts(frozenset({("nodule", "left")}), frozenset({("nodule", "right"), ("oedema", "")}))
    (1, 0, 1, 0, 1, 2)
    """
    names, reference_names = ({name for name, _ in findings} for findings in (generated, reference))
    return *_overlap(names, reference_names), *_overlap(generated, reference)


def _overlap(stated: Set[Any], to_state: Set[Any]) -> tuple[int, int, int]:
    return len(stated & to_state), len(stated - to_state), len(to_state - stated)


def findings_scores(generated: Sequence[Findings], references: Sequence[Findings]) -> ScoreCard:
    """Micro precision, recall and F1 over N studies: `findings_*` by name, `findings_attributes_*` with side, size and so on.

    Precision is 0 if nothing is stated, recall is 0 if there is nothing to state. Single studies have their F1.

    Args:
        generated: the findings of N generated reports.
        references: those of N references.
    """
    pairs = list(zip(generated, references, strict=True))
    counts = np.array([findings_counts(*pair) for pair in pairs], dtype=np.float64)
    statistic = SumStatistic(counts.reshape(-1, 6), _micro)
    f1 = [findings_f1(*pair) for pair in pairs]
    columns = {f"{prefix}_F1": [of_study[i] for of_study in f1] for i, prefix in enumerate(PREFIXES)}
    return ScoreCard(statistic.values(), columns, [statistic])


def findings_f1(generated: Findings, reference: Findings) -> tuple[float, float]:
    """F1 of one study by name, and with attributes; 1 if there is nothing to state and nothing stated.

    Args:
        generated: the findings of the generated report.
        reference: those of the reference.

    >>> findings_f1(frozenset(), frozenset())
    (1.0, 1.0)
    """
    if not generated and not reference:
        return 1.0, 1.0
    scores = _micro(np.array(findings_counts(generated, reference), dtype=np.float64))
    by_name, with_attributes = (float(scores[f"{prefix}_F1"]) for prefix in PREFIXES)
    return by_name, with_attributes


def _micro(sums: Floats) -> dict[str, Floats]:
    scores = {}
    for i, prefix in enumerate(PREFIXES):
        tp, fp, fn = np.moveaxis(sums[..., 3 * i : 3 * i + 3], -1, 0)
        scores[f"{prefix}_precision"] = tp / np.maximum(tp + fp, 1)
        scores[f"{prefix}_recall"] = tp / np.maximum(tp + fn, 1)
        scores[f"{prefix}_F1"] = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    return scores
