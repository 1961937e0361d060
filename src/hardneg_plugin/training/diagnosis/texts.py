"""Length and repetition of generated reports beside their references, and the report loss beside its best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardneg_plugin.metrics.records import PredictionRecord

GRAM = 4
"""Words of a sequence that counts as repeated where it comes again in a report."""


@dataclass(frozen=True)
class WrittenTexts:
    """The generated reports of a split beside their references.

    >>> from hardneg_plugin.metrics.records import make_record
    >>> WrittenTexts.of([make_record("CXR1", "no effusion .", "no acute disease .")]).length
    4.0
    """

    studies: int
    """Their number."""
    length: float
    """Mean number of generated words."""
    usual: tuple[float, float]
    """The lengths between which 80 % of the references lie, in words."""
    repeated: float
    """The share of generated sequences of `GRAM` words that their report had before, in [0, 1]."""
    repeated_in_references: float
    """The same of the references."""

    @classmethod
    def of(cls, records: Sequence[PredictionRecord]) -> "WrittenTexts":
        """Those of N >= 1 studies."""
        generated = [record["generated"].split() for record in records]
        references = [record["reference"].split() for record in records]
        shortest, longest = np.quantile([len(words) for words in references], [0.1, 0.9]).tolist()
        return cls(
            studies=len(records),
            length=sum(map(len, generated)) / len(records),
            usual=(shortest, longest),
            repeated=repeated_share(generated),
            repeated_in_references=repeated_share(references),
        )


def repeated_share(texts: Sequence[Sequence[str]]) -> float:
    """The share of the sequences of `GRAM` words that their text had before; 0 without such sequences.

    >>> repeated_share([["no", "focal", "lung", "disease"] * 2])
    0.2
    """
    grams = [[tuple(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)] for words in texts]
    total = sum(map(len, grams))
    return (total - sum(len(set(of_text)) for of_text in grams)) / max(total, 1)


def mean_report_loss(records: Sequence[PredictionRecord]) -> float | None:
    """The plain mean of the token losses of a split's references, whatever weighs tokens in training; None if not measured."""
    measured = [record["measured"] for record in records if "tokens" in record.get("measured", {})]
    tokens = sum(values["tokens"] for values in measured)
    return sum(values["loss"] for values in measured) / tokens if tokens else None
