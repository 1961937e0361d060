"""Studies, similarities and figures of one check, as each kind of logger can show them."""

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

BINS = np.linspace(-1, 1, 81)
"""Edges of the histograms: products of unit vectors, .025 each."""


@dataclass(frozen=True)
class ShownStudy:
    """A study as it is shown."""

    id: str
    picture: NDArray[np.uint8]
    """`(H, W)`: its views side by side."""
    reference: str
    generated: str

    @property
    def markdown(self) -> str:
        """Its texts; `<unk>` would be taken for HTML."""
        rows = (("study", self.id), ("reference", self.reference), ("generated", self.generated))
        return "\n\n".join(f"**{name}** {html.escape(text)}" for name, text in rows)


@dataclass(frozen=True)
class Shown:
    """What one check shows."""

    studies: Sequence[ShownStudy]
    similarities: Mapping[str, Tensor]
    """`(N,)` each, by the kind of report; none without an objective."""
    figures: Mapping[str, float]
    """What the warning signs were read from, for every logger's curves."""


def show(loggers: Sequence[Logger], shown: Shown, step: int) -> None:
    """Hand over to every logger what it can take; to be called on rank 0."""
    for logger in loggers:
        if shown.figures:
            logger.log_metrics({f"diagnosis/{name}": value for name, value in shown.figures.items()}, step)
        for kind, show_in in _SHOW_IN.items():
            if isinstance(logger, kind):
                show_in(logger, shown, step)


def _in_tensorboard(logger: TensorBoardLogger, shown: Shown, step: int) -> None:
    writer = logger.experiment
    for study in shown.studies:
        writer.add_image(f"diagnosis/{study.id}", study.picture, step, dataformats="HW")
        writer.add_text(f"diagnosis/{study.id}", study.markdown, step)
    for name, values in shown.similarities.items():
        if len(values):
            writer.add_histogram(f"diagnosis/similarity/{name}", values, step)


def _in_wandb(logger: WandbLogger, shown: Shown, step: int) -> None:
    import wandb  # type: ignore[import-not-found]  # an extra

    if shown.studies:
        pictures = [Image.fromarray(study.picture) for study in shown.studies]
        captions = [f"{study.id}: {study.generated}" for study in shown.studies]
        logger.log_image("diagnosis/studies", pictures, step, caption=captions)
        rows = [[study.id, study.reference, study.generated] for study in shown.studies]
        logger.log_table("diagnosis/reports", ["study", "reference", "generated"], rows, step=step)
    histograms: dict[str, Any] = {
        f"diagnosis/similarity/{name}": wandb.Histogram(np_histogram=np.histogram(values, BINS))
        for name, values in shown.similarities.items()
    }
    if histograms:
        logger.log_metrics(histograms, step)


def _in_mlflow(logger: MLFlowLogger, shown: Shown, step: int) -> None:
    client, run = logger.experiment, logger.run_id
    for number, study in enumerate(shown.studies, 1):  # ids may hold what no file name may
        client.log_image(run, Image.fromarray(study.picture), f"diagnosis/studies/{number}.png")
    if shown.studies:
        texts = "\n\n---\n\n".join(study.markdown for study in shown.studies)
        client.log_text(run, texts, f"diagnosis/reports/step-{step:08d}.md")
    if shown.similarities:
        client.log_text(run, _histogram_table(shown.similarities), f"diagnosis/similarity/step-{step:08d}.csv")


def _histogram_table(similarities: Mapping[str, Tensor]) -> str:
    """CSV with a row per bin: where it begins, and how many studies of each kind lie in it."""
    counts = [np.histogram(values, BINS)[0] for values in similarities.values()]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["from", *similarities])
    writer.writerows([f"{low:.3f}", *row] for low, *row in zip(BINS[:-1], *counts, strict=True))
    return table.getvalue()


_SHOW_IN: dict[type[Logger], Callable[[Any, Shown, int], None]] = {
    TensorBoardLogger: _in_tensorboard,
    WandbLogger: _in_wandb,
    MLFlowLogger: _in_mlflow,
}
