"""How much of the reports a tokenizer and a maximum length leave: unknown words, and ends that are cut off."""

from collections.abc import Sequence
from typing import NamedTuple

from hardneg_plugin.data.tokenizer import UNKNOWN_WORD, Tokenizer, WordTokenizer

LIMIT = 5000
"""Reports that are read at most; of more, every n-th."""


class Coverage(NamedTuple):
    """Shares in [0, 1] of some reports."""

    unknown: float | None
    """Of their words, those outside the vocabulary; None for a tokenizer that has a token for everything."""
    cut: float
    """Of the reports, those longer than the maximum length."""
    reports: int
    """How many were read."""


def coverage(reports: Sequence[str], tokenizer: Tokenizer, max_length: int, limit: int = LIMIT) -> Coverage:
    """What of some reports a model can learn to write.

    Args:
        reports: as written, at least one.
        tokenizer: of the model.
        max_length: tokens kept of a report, begin and end included.
        limit: the most reports to read, >= 1.

    >>> tokenizer = WordTokenizer.from_reports(["No effusion.", "No nodule."], min_count=1)
    >>> coverage(["No mass.", "No effusion, no nodule, no effusion."], tokenizer, max_length=7)
    Coverage(unknown=0.1, cut=0.5, reports=2)
    """
    some = reports[:: -(-len(reports) // limit)]
    rows = [tokenizer.encode(report) for report in some]
    unknown = None
    if isinstance(tokenizer, WordTokenizer):
        outside = tokenizer.vocabulary.index(UNKNOWN_WORD) + 1
        words = sum(len(row) - 2 for row in rows)
        unknown = sum(row.count(outside) for row in rows) / max(words, 1)
    return Coverage(unknown, sum(len(row) > max_length for row in rows) / len(rows), len(rows))
