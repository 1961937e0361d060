"""Everything that is measured about the generated reports of one split, each study counted once over all ranks."""

import warnings
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from hardneg_plugin.data.studies import FindingsReader
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.diversity import Diversity
from hardneg_plugin.metrics.findings import FindingsScores
from hardneg_plugin.metrics.gathering import StudyMetric


class Predictions(StudyMetric[list[dict[str, Any]]]):
    """The texts of a split: id, reference and generated report of each study, sorted by id."""

    def update(self, ids: Sequence[str], references: Sequence[str], generated: Sequence[str]) -> None:
        """Add B studies."""
        self.remember(ids, references, generated)

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """No score, and a record per study."""
        keys = ("id", "reference", "generated")
        return {}, [dict(zip(keys, row, strict=True)) for row in zip(ids, *columns, strict=True)]

    def records(self) -> list[dict[str, Any]]:
        """`{"id", "reference", "generated"}` per study; to be called on all ranks."""
        self.compute()
        return self._details or []


class ReportScores(nn.Module):
    """Scores of one split: caption scores, findings where they can be read, and how varied the reports are.

    Args:
        caption: BLEU, ROUGE-L, CIDEr and METEOR against the full references; None leaves them out.
        read_findings: reads findings out of a text; None where the data set has no such reader.
        cut: also score against the references as cut to the maximum length, as published systems do: names "cut/BLEU-4".
    """

    def __init__(
        self, *, caption: CaptionScores | None, read_findings: FindingsReader | None = None, cut: bool = False
    ) -> None:
        super().__init__()
        self.predictions = Predictions()
        self.diversity = Diversity()
        self.caption = None if caption is None else cast(CaptionScores, caption.clone())
        self.cut_caption = cast(CaptionScores, caption.clone()) if caption is not None and cut else None
        self.findings = None if read_findings is None else FindingsScores(read_findings)

    def update(
        self,
        ids: Sequence[str],
        generated: Sequence[str],
        references: Sequence[str],
        cut_references: Sequence[str] | None = None,
    ) -> None:
        """Add the reports generated for B studies; `cut_references` are needed only where cut scores are wanted."""
        self.predictions.update(ids, references, generated)
        self.diversity.update(generated, ids)
        if self.caption is not None:
            self.caption.update(generated, references, ids)
        if self.cut_caption is not None and cut_references is not None:
            self.cut_caption.update(generated, cut_references, ids)
        if self.findings is not None:
            self.findings.update(generated, references, ids)

    def compute(self) -> dict[str, float]:
        """All scores by name; to be called on all ranks."""
        scores = {**self.diversity.compute()}
        for metric in (self.caption, self.findings):
            if metric is not None:
                scores |= metric.compute()
        if self.cut_caption is not None:
            scores |= {f"cut/{name}": value for name, value in self.cut_caption.compute().items()}
        return {name: float(value) for name, value in scores.items()}

    def records(self) -> list[dict[str, Any]]:
        """Per study id, reference, generated report and its scores; to be called on all ranks."""
        each = self.caption.per_study() if self.caption is not None else {}
        return [{**record, "scores": each.get(record["id"], {})} for record in self.predictions.records()]

    def warn_of_collapse(self) -> None:
        """Warn where the model writes hardly more than one report; to be called on all ranks."""
        message = self.diversity.warning()
        if message is not None:
            warnings.warn(message, stacklevel=2)

    def reset(self) -> None:
        """Forget all studies."""
        for metric in self.children():
            cast(StudyMetric[Any], metric).reset()
