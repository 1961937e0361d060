"""The callback that measures a model in training, logs studies, similarities and figures, and warns."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import require_count
from hardneg_plugin.metrics.records import PredictionRecord
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.training.diagnosis.logger_output import DiagnosisOutput, LoggedStudy, log_diagnosis
from hardneg_plugin.training.diagnosis.measures import (
    EmbeddedSplit,
    ReportExchange,
    ValidationEmbeddings,
    closer_than_random,
    effective_dimensions,
    exchange_reports,
    hardening_of,
    mean_pairwise_cosine,
    similarities,
)
from hardneg_plugin.training.diagnosis.texts import WrittenTexts, mean_report_loss
from hardneg_plugin.training.diagnosis.warning_signs import (
    WarningTracker,
    at_chance,
    equal_embeddings,
    few_negatives,
    hardening_ineffective,
    ignores_image,
    ignores_text,
    loses_likelihood,
    repeats_itself,
    unusual_length,
)

_log = logging.getLogger(__name__)


class Diagnosis(pl.Callback):
    """Log a few studies and the similarities of a split after validation, and warn of a failing training.

    For a `ReportGenerator`: images, references and generated reports of a few studies, whether the text depends on the
    image, whether the own reports become less likely, and whether length and repetition are those of references.
    For an `AlignedModel`: histograms of the similarity of images to positives, random reports, hard and hardened negatives, and
    whether embeddings collapse, stay at chance, or align without the text. For any host of the plug-in, from its logged values:
    whether there are hard negatives, and whether hardening changes them. Each warning is issued once per run.

    TensorBoard, Weights & Biases and MLflow get images, texts and histograms; every logger gets the figures as `diagnosis/...`.
    Training is not affected: no random number is drawn, and no mode changes.

    Args:
        every_n_epochs: epochs between diagnoses, >= 1.
        studies: number of logged studies, >= 0; spread over the split, always the same.

    Raises:
        UserError: an argument is out of range.

    >>> trainer = pl.Trainer(callbacks=[Diagnosis(every_n_epochs=5)], accelerator="cpu", logger=False, enable_checkpointing=False)
    """

    def __init__(self, every_n_epochs: int = 1, studies: int = 4) -> None:
        require_count(every_n_epochs, "callbacks.diagnosis.every_n_epochs")
        require_count(studies, "callbacks.diagnosis.studies", "an integer >= 0", least=0)
        self.every_n_epochs, self.studies = every_n_epochs, studies
        self._tracker = WarningTracker()
        self._lowest_loss = math.inf
        self._steps, self._sums = 0, dict[str, Tensor]()
        self._embedded = EmbeddedSplit()
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        self._exchange: ReportExchange | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the means of the epoch."""
        self._steps, self._sums = 0, {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the values that the plug-in logged in this step, without synchronising the device."""
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
        """Warn of signs in the means of the epoch."""
        means = self._means()
        if not means:
            return
        found, hardened = means["negatives_found"], means.get("hardened_similarity")
        signs = {"few_negatives": few_negatives(found, means["false_negative_share"])}
        if hardened is not None:
            positive, negative = means["positive_similarity"], means["negative_similarity"]
            signs["hardening_ineffective"] = hardening_ineffective(
                means["hardness"], positive, negative, hardened, found
            )
        self._warn(trainer, signs)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset embeddings, pictures and exchange."""
        self._embedded.reset()
        self._pictures, self._exchange = {}, None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed the batch in the objective's space, keep pictures to log, and exchange reports in the first batch."""
        if not self._is_due(trainer):
            return
        with trainer.precision_plugin.forward_context():
            if isinstance(pl_module, ReportGenerator):
                self._pictures |= self._pictures_to_log(trainer, batch, batch_idx)
                if batch_idx == 0:
                    self._exchange = exchange_reports(pl_module, batch, outputs)
            if isinstance(pl_module, AlignedModel):
                embeddings = pl_module.hard_negatives.project(pl_module.embed(batch, outputs))
                self._embedded.update(batch["ids"], *embeddings, batch["match_keys"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log and warn, once the model has scored the split."""
        if not self._is_due(trainer) or not isinstance(pl_module, StudyModel):
            return
        is_aligned = isinstance(pl_module, AlignedModel)
        records = pl_module.scores_of("val").records()  # this and the next line gather over ranks
        embedded = self._embedded.studies() if is_aligned else None
        if not trainer.is_global_zero:
            return
        figures: dict[str, float] = {}
        signs: dict[str, str | None] = {}
        if self._exchange is not None:
            figures["image_sensitivity"] = self._exchange.image_sensitivity
            signs["ignores_image"] = ignores_image(self._exchange)
        if records:
            of_texts, their_signs = self._of_texts(records)
            figures |= of_texts
            signs |= their_signs
        measured = {}
        if embedded is not None and len(embedded.images) > 1 and isinstance(pl_module, AlignedModel):
            means = self._means()
            measured = similarities(embedded, hardening_of(pl_module.hard_negatives, means.get("hardness", 0.0)))
            of_embeddings, their_signs = _figures_and_signs(embedded, self._exchange)
            figures |= of_embeddings
            # during warm-up the loss is exactly 0, and untrained embeddings are nearly equal
            if means.get("alignment_loss", 0.0) > 0 and pl_module.hard_negatives.weights.alignment > 0:
                signs |= their_signs
        texts = {record["id"]: (record["reference"], record["generated"]) for record in records}
        studies = [LoggedStudy(study, picture, *texts[study]) for study, picture in self._pictures.items()]
        log_diagnosis(trainer.loggers, DiagnosisOutput(studies, measured, figures), trainer.global_step)
        self._warn(trainer, signs)

    def state_dict(self) -> dict[str, Any]:
        """The state of the warnings, and the lowest report loss."""
        return {**self._tracker.state_dict(), "lowest_loss": self._lowest_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it in a resumed run, which then repeats no warning."""
        self._tracker.load_state_dict(state_dict)
        self._lowest_loss = state_dict.get("lowest_loss", math.inf)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        is_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return is_training and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _pictures_to_log(self, trainer: pl.Trainer, batch: Batch, batch_idx: int) -> dict[str, NDArray[np.uint8]]:
        """The studies of a batch that are logged, spread over this rank's part of the split: views side by side, `(H, W)`."""
        batches = trainer.num_val_batches[0]
        if math.isinf(batches):  # unknown length: take them from the first batch
            batches = 1
        places = [divmod((number + 0.5) / self.studies * batches, 1) for number in range(self.studies)]
        rows = sorted({int(within * len(batch["ids"])) for batch_of, within in places if batch_of == batch_idx})
        views = {batch["ids"][row]: batch["images"][row, batch["view_mask"][row], 0] for row in rows}
        return {study: np.concatenate(list(of_study.cpu().numpy()), axis=1) for study, of_study in views.items()}

    def _of_texts(self, records: Sequence[PredictionRecord]) -> tuple[dict[str, float], dict[str, str | None]]:
        """Of the generated reports, and of the likelihood of their references."""
        texts = WrittenTexts.of(records)
        figures = {"length": texts.length, "repeated": texts.repeated}
        signs = {"unusual_length": unusual_length(texts), "repeats_itself": repeats_itself(texts)}
        loss = mean_report_loss(records)
        if loss is not None:
            self._lowest_loss = min(self._lowest_loss, loss)  # the former, should the loss be NaN
            figures["loss_above_lowest"] = loss - self._lowest_loss
            signs["loses_likelihood"] = loses_likelihood(loss, self._lowest_loss)
        return figures, signs

    def _means(self) -> dict[str, float]:
        """Means of the values under `train/` in this epoch; the same on all ranks, as the plug-in logs them so."""
        return {name.removeprefix("train/"): float(total) / self._steps for name, total in self._sums.items()}

    def _warn(self, trainer: pl.Trainer, signs: Mapping[str, str | None]) -> None:
        for kind, message in self._tracker.due(signs).items():
            rank_zero_warn(message)
            if trainer.is_global_zero:
                _log.warning("Warning sign after epoch %d: %s", trainer.current_epoch + 1, kind.replace("_", " "))


def _figures_and_signs(
    studies: ValidationEmbeddings, exchange: ReportExchange | None
) -> tuple[dict[str, float], dict[str, str | None]]:
    """Of the spread of embeddings, and of their alignment."""
    figures: dict[str, float] = {}
    signs: dict[str, str | None] = {}
    for side, embeddings in (("images", studies.images), ("reports", studies.reports)):
        cosine, dimensions = mean_pairwise_cosine(embeddings), effective_dimensions(embeddings)
        figures |= {f"mean_cosine_of_{side}": cosine, f"effective_dimensions_of_{side}": dimensions}
        signs[f"equal_{side}"] = equal_embeddings(side, len(embeddings), cosine, dimensions)
    share, count = closer_than_random(studies)
    figures["positive_closer_than_random"] = share
    signs["at_chance"] = at_chance(share, count)
    if exchange is not None and exchange.text_gap is not None and exchange.study_gap is not None:
        figures |= {"text_gap": exchange.text_gap, "study_gap": exchange.study_gap}
        signs["ignores_text"] = ignores_text(exchange)
    return figures, signs
