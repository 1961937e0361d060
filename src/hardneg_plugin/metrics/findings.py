"""Precision and recall of the findings that generated reports state."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from hardneg_plugin.functional.keys import match_key

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


class FindingsScores(Metric):
    """Micro precision, recall and F1 of findings read out of generated and reference reports.

    `findings_*` compares names only, `findings_attributes_*` names with all attributes (side, size, ...). A study that
    comes twice, as when a distributed sampler fills up its last batch, counts once. Where nothing is stated, precision
    is 0; where there is nothing to state, recall is 0.

    Args:
        reader: from a text to its findings; must read any text without raising.
    """

    full_state_update = False
    higher_is_better = True
    rows: list[Tensor]

    def __init__(self, reader: Callable[[str], Findings], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reader = reader
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Count the findings of generated reports against their references.

        Raises:
            ValueError: the three differ in length.
        """
        if not len(generated) == len(references) == len(ids):
            raise ValueError(
                "Expected as many generated reports as references and ids, but got "
                f"{len(generated)}, {len(references)} and {len(ids)}."
            )
        counted = [
            (match_key(study), *findings_counts(self.reader(text), self.reader(reference)))
            for text, reference, study in zip(generated, references, ids, strict=True)
        ]
        self.rows.append(self._rows(counted))

    def compute(self) -> dict[str, Tensor]:
        """Six scores in [0, 1], each a 0-dim tensor."""
        rows = self.rows if isinstance(self.rows, Tensor) else torch.cat([self._rows([]), *self.rows])
        rows = rows[rows[:, 0].argsort(stable=True)]
        first = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        first[1:] = rows[1:, 0] != rows[:-1, 0]
        sums = rows[first, 1:].sum(0)
        return {
            f"{prefix}_{score}": value
            for prefix, counts in (("findings", sums[:3]), ("findings_attributes", sums[3:]))
            for score, value in zip(("precision", "recall", "F1"), precision_recall_f1(*counts), strict=True)
        }

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over ranks; a rank that saw no study takes part with no rows of the right shape and type."""
        if not self._is_synced and not self.rows:
            self.rows = [self._rows([])]
        super().sync(*args, **kwargs)

    def _rows(self, counted: Sequence[tuple[int, ...]]) -> Tensor:
        """`(N, 7)` int64: key of the study, then its six counts."""
        return torch.tensor(counted, dtype=torch.int64, device=self.device).view(-1, 7)
