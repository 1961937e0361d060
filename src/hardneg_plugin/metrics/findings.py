"""Precision and recall of the findings that generated reports state."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.metrics.gathering import StudyMetric

Findings = frozenset[tuple[str, Hashable]]
"""A report's findings, each `(name, attributes)`."""


def findings_counts(generated: Findings, reference: Findings) -> tuple[int, int, int, int, int, int]:
    """What one report states rightly, wrongly, and leaves out: `(tp, fp, fn)` by name, then by name and attributes.

    By name, a finding counts once however often it is stated with other attributes.

    >>> findings_counts(frozenset({("nodule", "left")}), frozenset({("nodule", "right"), ("oedema", "")}))
    (1, 0, 1, 0, 1, 2)
    """
    stated, true = (frozenset(name for name, _ in findings) for findings in (generated, reference))
    return (
        len(stated & true),
        len(stated - true),
        len(true - stated),
        len(generated & reference),
        len(generated - reference),
        len(reference - generated),
    )


def precision_recall_f1(tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Micro precision, recall and F1 from counts summed over studies and findings; 0/0 is 0."""
    return (
        tp / (tp + fp).clamp(min=1),
        tp / (tp + fn).clamp(min=1),
        2 * tp / (2 * tp + fp + fn).clamp(min=1),
    )


class FindingsScores(StudyMetric[None]):
    """Micro precision, recall and F1 of findings read out of generated and reference reports.

    `compute()` gives `findings_*`, which compares names only, and `findings_attributes_*`, names with all attributes (side,
    size, ...), six scores in [0, 1]. Where nothing is stated, precision is 0; where there is nothing to state, recall is 0.

    Args:
        reader: from a text to its findings; must read any text without raising.
    """

    higher_is_better = True

    def __init__(self, reader: Callable[[str], Findings]) -> None:
        super().__init__()
        self.reader = reader

    def update(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Count the findings of B generated reports against their references.

        Raises:
            ValueError: the three differ in length.
        """
        if not len(generated) == len(references) == len(ids):
            raise ValueError(
                "Expected as many generated reports as references and ids, but got "
                f"{len(generated)}, {len(references)} and {len(ids)}."
            )
        counted = [
            findings_counts(self.reader(text), self.reader(reference))
            for text, reference in zip(generated, references, strict=True)
        ]
        self.remember(ids, torch.tensor(counted, dtype=torch.int64).view(-1, 6))

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], None]:
        """The six scores, from counts `(N, 6)`."""
        (counts,) = columns
        sums = counts.sum(0)
        return {
            f"{prefix}_{score}": value.item()
            for prefix, counted in (("findings", sums[:3]), ("findings_attributes", sums[3:]))
            for score, value in zip(("precision", "recall", "F1"), precision_recall_f1(*counted), strict=True)
        }, None
