"""The callback: looks on while a model trains and validates, shows what it saw, and tells warning signs."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import UserError
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.training.diagnosis.logger_output import Shown, ShownStudy, show
from hardneg_plugin.training.diagnosis.measures import (
    EmbeddedSplit,
    Exchanged,
    ValidationEmbeddings,
    closer_than_random,
    effective_dimensions,
    exchange_reports,
    hardening_of,
    mean_pairwise_cosine,
    similarities,
)
from hardneg_plugin.training.diagnosis.warning_signs import (
    Watch,
    at_chance,
    equal_embeddings,
    few_negatives,
    hardening_ineffective,
    ignores_image,
    ignores_text,
)

_log = logging.getLogger(__name__)


class Diagnosis(pl.Callback):
    """Show a few studies and the similarities of a split after validation, and warn of what goes wrong.

    Of a `ReportGenerator`: images, reference and generated report of a few studies, and whether its words depend on the image.
    Of an `AlignedModel` also histograms of the similarities to own, random, hard negative and hardened reports,
    and whether the embeddings collapse, stay at chance, or align without the text. Of any host of the plug-in, from what it
    logs: whether there are hard negatives, and whether hardening changes them. Each warning is told once per run.

    TensorBoard, Weights & Biases and MLflow get pictures, texts and histograms; every logger gets the figures, as
    `diagnosis/...`. Training is not touched: no random number is drawn, and no mode changed.

    Args:
        every_n_epochs: look after every so many epochs, at least 1.
        studies: how many to show, from 0; spread over the split, and the same ones each time.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, every_n_epochs: int = 1, studies: int = 4) -> None:
        for key, value, lowest in (("every_n_epochs", every_n_epochs, 1), ("studies", studies, 0)):
            if value < lowest:
                raise UserError(f"callbacks.diagnosis.{key}: expected at least {lowest}, but got {value}.")
        self.every_n_epochs, self.studies = every_n_epochs, studies
        self._watch = Watch()
        self._steps, self._sums = 0, dict[str, Tensor]()
        self._embedded = EmbeddedSplit()
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        self._exchanged: Exchanged | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the means of the epoch."""
        self._steps, self._sums = 0, {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add what the plug-in logged of this step, without waiting for the device."""
        if not self._is_due(trainer):
            return
        logged = trainer.callback_metrics
        if "train/alignment_loss" not in logged:  # no plug-in
            return
        self._steps += 1
        for name, value in logged.items():
            if name.startswith("train/"):
                self._sums[name] = self._sums.get(name, 0) + value.detach()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the signs in the means of the epoch."""
        means = self._means()
        if not means:
            return
        found, hardened = means["negatives_found"], means.get("hardened_similarity")
        signs = {"few_negatives": few_negatives(found, means["false_negative_share"])}
        if hardened is not None:
            own, negative = means["positive_similarity"], means["negative_similarity"]
            signs["hardening_ineffective"] = hardening_ineffective(means["hardness"], own, negative, hardened, found)
        self._tell(trainer, signs)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the validation before."""
        self._embedded.reset()
        self._pictures, self._exchanged = {}, None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed the batch in the objective's space, exchange the reports of the first, and keep pictures to show."""
        if not self._is_due(trainer):
            return
        with trainer.precision_plugin.forward_context():
            if isinstance(pl_module, ReportGenerator):
                rows = _rows_to_show(trainer, batch_idx, len(batch["ids"]), self.studies)
                self._pictures |= _pictures_of(batch, rows)
                if batch_idx == 0:
                    self._exchanged = exchange_reports(pl_module, batch, outputs)
            if isinstance(pl_module, AlignedModel):
                embeddings = pl_module.hard_negatives.project(pl_module.embed(batch, outputs))
                self._embedded.update(batch["ids"], *embeddings, batch["match_keys"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show, and tell the signs; the model has scored the split by now."""
        if not self._is_due(trainer) or not isinstance(pl_module, StudyModel):
            return
        is_plugged = isinstance(pl_module, AlignedModel)
        records = pl_module.scores_of("val").records()  # these two gather over the ranks
        embedded = self._embedded.studies() if is_plugged else None
        if not trainer.is_global_zero:
            return
        figures: dict[str, float] = {}
        signs: dict[str, str | None] = {}
        if self._exchanged is not None:
            figures["image_sensitivity"] = self._exchanged.image_sensitivity
            signs["ignores_image"] = ignores_image(self._exchanged)
        measured = {}
        if embedded is not None and len(embedded.images) > 1 and isinstance(pl_module, AlignedModel):
            means = self._means()
            measured = similarities(embedded, hardening_of(pl_module.hard_negatives, means.get("hardness", 0.0)))
            of_embeddings, of_alignment = _spread(embedded), _alignment(embedded, self._exchanged)
            figures |= of_embeddings[0] | of_alignment[0]
            # the loss is 0 exactly while the warm-up lasts, and untrained embeddings are nearly equal
            if means.get("alignment_loss", 0.0) > 0 and pl_module.hard_negatives.weights.alignment > 0:
                signs |= of_embeddings[1] | of_alignment[1]
        texts = {record["id"]: (record["reference"], record["generated"]) for record in records}
        studies = [ShownStudy(study, picture, *texts[study]) for study, picture in self._pictures.items()]
        show(trainer.loggers, Shown(studies, measured, figures), trainer.global_step)
        self._tell(trainer, signs)

    def state_dict(self) -> dict[str, Any]:
        """What was told, so that a resumed run does not tell it again."""
        return self._watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._watch.load_state_dict(state_dict)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        is_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return is_training and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _means(self) -> dict[str, float]:
        """Of what was logged under train/ since the epoch began; the same on all ranks, as the plug-in logs it."""
        return {name.removeprefix("train/"): float(total) / self._steps for name, total in self._sums.items()}

    def _tell(self, trainer: pl.Trainer, signs: Mapping[str, str | None]) -> None:
        for kind, message in self._watch.due(signs).items():
            rank_zero_warn(message)
            if trainer.is_global_zero:
                _log.warning("Warning sign after epoch %d: %s", trainer.current_epoch + 1, kind.replace("_", " "))


def _spread(studies: ValidationEmbeddings) -> tuple[dict[str, float], dict[str, str | None]]:
    """Figures and signs of how far embeddings spread."""
    figures: dict[str, float] = {}
    signs: dict[str, str | None] = {}
    for side, embeddings in (("images", studies.images), ("reports", studies.reports)):
        cosine, dimensions = mean_pairwise_cosine(embeddings), effective_dimensions(embeddings)
        figures |= {f"mean_cosine_of_{side}": cosine, f"effective_dimensions_of_{side}": dimensions}
        signs[f"equal_{side}"] = equal_embeddings(side, len(embeddings), cosine, dimensions)
    return figures, signs


def _alignment(
    studies: ValidationEmbeddings, exchanged: Exchanged | None
) -> tuple[dict[str, float], dict[str, str | None]]:
    """Figures and signs of what images are aligned with."""
    share, count = closer_than_random(studies)
    figures = {"own_closer_than_random": share}
    signs = {"at_chance": at_chance(share, count)}
    if exchanged is not None and exchanged.text_gap is not None and exchanged.study_gap is not None:
        figures |= {"text_gap": exchanged.text_gap, "study_gap": exchanged.study_gap}
        signs["ignores_text"] = ignores_text(exchanged)
    return figures, signs


def _rows_to_show(trainer: pl.Trainer, batch_idx: int, size: int, count: int) -> list[int]:
    """Which rows of a batch of this rank are among `count` that are spread over its part of the split."""
    batches = trainer.num_val_batches[0]
    if math.isinf(batches):  # a stream of unknown length: its first batch
        batches = 1
    places = [divmod((number + 0.5) / count * batches, 1) for number in range(count)]
    return sorted({int(within * size) for batch, within in places if batch == batch_idx})


def _pictures_of(batch: Batch, rows: list[int]) -> dict[str, NDArray[np.uint8]]:
    """By id, the views of some studies side by side."""
    return {
        batch["ids"][row]: np.concatenate(list(batch["images"][row, batch["view_mask"][row], 0].cpu().numpy()), axis=1)
        for row in rows
    }
