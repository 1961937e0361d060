"""Output of the diagnosis to loggers: studies, similarities and figures of one validation."""

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

BINS = np.linspace(-1, 1, 81)
"""Edges of the histograms of cosines, .025 wide."""


@dataclass(frozen=True)
class LoggedStudy:
    """A study with its generated report."""

    id: str
    picture: NDArray[np.uint8]
    """`(H, W)`: its views side by side."""
    reference: str
    generated: str

    @property
    def markdown(self) -> str:
        """Id and texts in Markdown, with HTML escaped, as in `<unk>`."""
        rows = (("study", self.id), ("reference", self.reference), ("generated", self.generated))
        return "\n\n".join(f"**{name}** {html.escape(text)}" for name, text in rows)


@dataclass(frozen=True)
class DiagnosisOutput:
    """Output of one validation."""

    studies: Sequence[LoggedStudy]
    similarities: Mapping[str, Tensor]
    """`(N,)` each, by kind of report; empty without an objective."""
    figures: Mapping[str, float]
    """The figures behind the warning signs, for every logger."""


def log_diagnosis(loggers: Sequence[Logger], output: DiagnosisOutput, step: int) -> None:
    """Log what each logger supports; call it on rank 0.

    Args:
        loggers: every logger gets the figures; TensorBoard, Weights & Biases and MLflow the rest, too.
        output: of one validation.
        step: the global step.
    """
    for logger in loggers:
        if output.figures:
            logger.log_metrics({f"diagnosis/{name}": value for name, value in output.figures.items()}, step)
        _log_studies(logger, output, step)


@singledispatch
def _log_studies(logger: Logger, output: DiagnosisOutput, step: int) -> None:
    """Log studies and similarities; by the kind of logger, since Lightning's have no common way."""


@_log_studies.register
def _(logger: TensorBoardLogger, output: DiagnosisOutput, step: int) -> None:
    writer = logger.experiment
    for study in output.studies:
        writer.add_image(f"diagnosis/{study.id}", study.picture, step, dataformats="HW")
        writer.add_text(f"diagnosis/{study.id}", study.markdown, step)
    for name, values in output.similarities.items():
        if len(values):
            writer.add_histogram(f"diagnosis/similarity/{name}", values, step)


@_log_studies.register
def _(logger: WandbLogger, output: DiagnosisOutput, step: int) -> None:
    import wandb  # type: ignore[import-not-found]  # an extra

    if output.studies:
        pictures = [Image.fromarray(study.picture) for study in output.studies]
        captions = [f"{study.id}: {study.generated}" for study in output.studies]
        logger.log_image("diagnosis/studies", pictures, step, caption=captions)
        rows = [[study.id, study.reference, study.generated] for study in output.studies]
        logger.log_table("diagnosis/reports", ["study", "reference", "generated"], rows, step=step)
    histograms: dict[str, Any] = {
        f"diagnosis/similarity/{name}": wandb.Histogram(np_histogram=np.histogram(values, BINS))
        for name, values in output.similarities.items()
    }
    if histograms:
        logger.log_metrics(histograms, step)


@_log_studies.register
def _(logger: MLFlowLogger, output: DiagnosisOutput, step: int) -> None:
    client, run = logger.experiment, logger.run_id
    for number, study in enumerate(output.studies, 1):  # ids may not be valid file names
        client.log_image(run, Image.fromarray(study.picture), f"diagnosis/studies/{number}.png")
    if output.studies:
        texts = "\n\n---\n\n".join(study.markdown for study in output.studies)
        client.log_text(run, texts, f"diagnosis/reports/step-{step:08d}.md")
    if output.similarities:
        client.log_text(run, _histogram_table(output.similarities), f"diagnosis/similarity/step-{step:08d}.csv")


def _histogram_table(similarities: Mapping[str, Tensor]) -> str:
    """CSV with a row per bin: its lower edge, and the number of studies by kind of report."""
    counts = [np.histogram(values, BINS)[0] for values in similarities.values()]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["from", *similarities])
    writer.writerows([f"{low:.3f}", *row] for low, *row in zip(BINS[:-1], *counts, strict=True))
    return table.getvalue()
