"""The plug-in for transformers.Trainer: a mixin that adds an objective to the loss of any trainer built on it.

Private methods of `Trainer` are overridden where nothing public does the same: `_set_signature_columns_if_needed` here,
`_save_optimizer_and_scheduler` and `_load_optimizer_and_scheduler` in `objective_beside_model`. Checked with transformers 5.24.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from hardneg_plugin.distributed import average_gradients
from hardneg_plugin.divergence import FiniteSteps
from hardneg_plugin.errors import UserError
from hardneg_plugin.hf.columns import KeptColumns, columns_read, columns_taken
from hardneg_plugin.hf.model_step import ModelStep
from hardneg_plugin.hf.objective_beside_model import ObjectiveBesideModel
from hardneg_plugin.hf.objective_steps import ObjectiveSteps
from hardneg_plugin.hf.step_logs import StepLogs
from hardneg_plugin.hf.stop_diverged import StopDivergedTrainer
from hardneg_plugin.hf.strategy import check_strategy
from hardneg_plugin.objectives import HardNegativeObjective, ObjectiveOutput
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import check_chunks, warn_of_batch_norm
from hardneg_plugin.plugin.feature import Where
from hardneg_plugin.plugin.feature_paths import FeaturePaths
from hardneg_plugin.plugin.features_watch import FeaturesWatch
from hardneg_plugin.plugin.negatives_watch import NegativesWatch


class HardNegativeTrainerMixin(ObjectiveBesideModel):
    """Add increasingly hard negatives to a trainer of Hugging Face; put it before `Trainer` or TRL's `SFTTrainer`.

    The model runs once per step. The loss in training is
    `weights.report * loss + weights.alignment * alignment_loss + weights.separation * separation_loss`; the terms of the objective
    are averaged over accumulated batches, whichever way the host's loss is. Evaluation and prediction are those of the trainer.

    Places are those of `plug_in`. Paths start at the model, or at the base model within one of peft; "batch.study_id" is a column,
    and "outputs" is what the model returned. Columns that the model does not take are kept for the objective
    (`remove_unused_columns`), also texts, and taken out before the model runs. A collator of your own gets them with the rest.

    The objective is not part of the model. Its parameters are a group of their own in the optimizer, without weight decay, under
    the same learning-rate schedule. `max_grad_norm` clips them on their own, and `grad_norm` in the logs is the model's. Their
    gradients are averaged over ranks. They are saved as `checkpoint-N/hard_negatives.pt` with the optimizer's state (not with
    `save_only_model`), and resumed from there. The contrast is over the batches of all ranks.

    Logged with the loss, as means over the steps since the last log and over all ranks: report_loss, alignment_loss,
    separation_loss, hardness and the others of `HardNegativeMixin`. The schedule counts optimizer steps.

    Args:
        hard_negatives: the objective; None: `HardNegativeObjective()`.
        images, reports, image_mask, report_mask: features and their masks, as of `plug_in`.
        study_ids, patient_ids, texts, labels, facts, statements, negatives: as of `plug_in`; `labels` are label sets of studies,
            not the tokens that the model is trained on.
        columns: further columns of the data set that callable places read.
        chunks: into how many parts each batch is split by study, or a callable from the batch to its parts. The model runs on them
            one after the other, under activation checkpointing, and the contrast is over the whole batch (`plugin.chunks`). The
            losses of parts are added where the model divides by `num_items_in_batch`, else their weighted mean is taken. TRL's
            count of tokens counts them twice.
        chunk_weight: for the weighted mean, a place whose sum weighs the loss of a part; None: the number of studies.
        diverged_after: so many optimizer steps in a row whose loss or gradient is not finite end the training, and so do weights
            that are not finite where they would be evaluated or saved; None: neither does. Studies are named by `study_ids`,
            where that is a path into the batch. All other arguments go to the trainer.

    Raises:
        UserError: a path that leads nowhere, or a strategy that `hf.strategy` refuses.
        DivergedError: while training, on all ranks, with step, epoch, the ids of the studies and the last checkpoint.

    >>> from trl import SFTTrainer  # doctest: +SKIP
    >>> class HardNegativeSFTTrainer(HardNegativeTrainerMixin, SFTTrainer):  # doctest: +SKIP
    ...     pass
    """

    data_collator: Any
    _signature_columns: list[str] | None

    def __init__(
        self,
        *args: Any,
        hard_negatives: HardNegativeObjective | None = None,
        images: Where,
        reports: Where,
        image_mask: Where | None = None,
        report_mask: Where | None = None,
        study_ids: Where | None = None,
        patient_ids: Where | None = None,
        texts: Where | None = None,
        labels: Where | None = None,
        facts: Where | None = None,
        statements: Where | None = None,
        negatives: Where | None = None,
        columns: Sequence[str] = (),
        chunks: Chunks = 1,
        chunk_weight: Where | None = None,
        diverged_after: int | None = 3,
        **kwargs: Any,
    ) -> None:
        self._places = FeaturePaths(
            images=images,
            reports=reports,
            image_mask=image_mask,
            report_mask=report_mask,
            study_ids=study_ids,
            patient_ids=patient_ids,
            texts=texts,
            labels=labels,
            facts=facts,
            statements=statements,
            negatives=negatives,
            chunk_weight=chunk_weight,
        )
        self._chunks = check_chunks(chunks)
        self._columns = [*columns_read(self._places), *columns]
        self.hard_negatives = HardNegativeObjective() if hard_negatives is None else hard_negatives
        if self.hard_negatives.reads_reports:
            raise UserError(
                "token_weights and likelihood_margin read reports with other images, and edit_margin edited ones, which this "
                "trainer cannot do yet: set them to None, or plug into a LightningModule."
            )
        self._step_logs = StepLogs()
        self._negatives_watch, self._features_watch = NegativesWatch(), FeaturesWatch()
        self._finite_steps = None if diverged_after is None else FiniteSteps(diverged_after)
        self._is_first_step = True
        super().__init__(*args, **kwargs)
        check_strategy(self)
        self._places.modules(self._host)
        taken = {*columns_taken(self._host), "label", "label_ids", *self.label_names}
        self._kept = [name for name in self._columns if name not in taken]
        self.hard_negatives.to(self.args.device)
        if self._kept:
            self.data_collator = KeptColumns(self.data_collator, self._kept)
            loading = self.accelerator.dataloader_config
            if loading.dispatch_batches is None:
                loading.dispatch_batches = (
                    False  # rank 0 would send batches of an iterable data set, but cannot send texts
                )
        self.add_callback(ObjectiveSteps(self.hard_negatives))
        if self._finite_steps is not None:
            self.add_callback(StopDivergedTrainer(self._finite_steps, self.hard_negatives, self._scale_of_loss))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The trainer's loss, in training with the terms of the objective. Arguments are those of `Trainer`."""
        if not model.training:
            return super().compute_loss(model, self._for_model(inputs), return_outputs, num_items_in_batch)
        if self._is_first_step and self._chunks != 1:
            warn_of_batch_norm(self.model)
        self._is_first_step = False
        own_loss, is_share = super().compute_loss, self._is_share(num_items_in_batch)
        step = ModelStep(
            self._places,
            self._host,
            self.model,
            self.hard_negatives,
            lambda part: own_loss(model, self._for_model(part), return_outputs, num_items_in_batch),
            is_share,
        )
        batch = dict(inputs)
        whole = step.whole(batch) if self._chunks == 1 else step.in_parts(batch, self._chunks, model)
        loss, pairs = whole.loss, whole.pairs
        assert loss is not None
        assert pairs is not None
        progress = self._progress()
        given = {} if whole.statements is None else {"statements": whole.statements}
        terms: ObjectiveOutput = self.hard_negatives(pairs, progress, **given)
        # the trainer divides a loss by the number of accumulated batches unless it is a share of theirs already
        shares = self.current_gradient_accumulation_steps if is_share else 1
        self._step_logs.add(loss * shares, terms)
        self._negatives_watch(terms.logs["negatives_found"], len(pairs.images), self.hard_negatives, progress)
        weights = self.hard_negatives.weights
        added = weights.alignment * terms.alignment_loss + weights.separation * terms.separation_loss
        total = weights.report * loss + added / shares
        if self._finite_steps is not None:
            self._finite_steps.add_batch(total, self._study_ids(inputs))
        return (total, whole.outputs) if return_outputs else total

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trainer's step; the last of accumulated ones averages the objective's gradients over the ranks."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:  # before a scaler looks for gradients that are not finite
            average_gradients(self.hard_negatives.parameters())
        return loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the trainer's, with the columns that the model takes. Arguments are those of `Trainer`."""
        return super().prediction_step(model, self._for_model(inputs), *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the trainer's; logs of training get the values of the objective. Arguments are those of `Trainer`."""
        if "loss" in logs:
            means = self._step_logs.means()
            self._features_watch.seen(means.get("non_finite_share", 0.0))
            logs = {**logs, **means}
        super().log(logs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known = self._signature_columns or []
        self._signature_columns = [*known, *(name for name in self._columns if name not in known)]

    @property
    def _host(self) -> nn.Module:
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[no-any-return]

    def _for_model(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name not in self._kept}

    def _study_ids(self, inputs: dict[str, Any]) -> Any:
        where = self._places.study_ids
        if not isinstance(where, str) or not where.startswith("batch."):
            return ()
        return self._places.read("study_ids", self._host, inputs, None, {})

    def _scale_of_loss(self) -> float | None:
        scaler = self.accelerator.scaler
        return None if scaler is None else float(scaler.get_scale())

    def _is_share(self, num_items_in_batch: Tensor | int | None) -> bool:
        said = getattr(self, "loss_is_scaled_for_ga", None)  # newer releases of transformers say it
        if said is not None:
            return bool(said)
        by_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_items) or self.compute_loss_func is not None

    def _progress(self) -> TrainingProgress:
        state = self.state
        fraction = min(1.0, state.global_step / max(state.max_steps, 1))
        return TrainingProgress(step=state.global_step, epoch=int(state.epoch or 0), fraction=fraction)


class HardNegativeTrainer(HardNegativeTrainerMixin, Trainer):  # type: ignore[misc]
    """transformers.Trainer with increasingly hard negatives; see `HardNegativeTrainerMixin`.

    >>> import torch
    >>> from hardneg_plugin import HardNegativeObjective
    >>> from transformers import TrainingArguments
    >>> class Generator(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
    ...
    ...     def forward(self, pixels, words):
    ...         return {"loss": (self.image(pixels) - self.text(words)).square().mean()}
    >>> studies = [{"pixels": torch.randn(6), "words": torch.randn(5), "study": f"study {i}"} for i in range(8)]
    >>> trainer = HardNegativeTrainer(
    ...     model=Generator(),
    ...     args=TrainingArguments("unused", max_steps=2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True),
    ...     train_dataset=studies,
    ...     hard_negatives=HardNegativeObjective(),
    ...     images="image",
    ...     reports="text",
    ...     study_ids="batch.study",
    ... )
    """
