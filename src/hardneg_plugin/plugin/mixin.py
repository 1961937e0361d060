"""The plug-in itself: a mixin that adds an objective to the training step of any LightningModule."""

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.distributed import mean_over_ranks, world_size
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.objectives import HardNegativeObjective, ObjectiveOutput, PairEmbeddings
from hardneg_plugin.objectives.likelihood.negative_images import ReadReports
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.objectives.weighted_terms import total_loss
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import check_chunks
from hardneg_plugin.plugin.features_watch import FeaturesWatch
from hardneg_plugin.plugin.lightning_hosts import lightning_module_of
from hardneg_plugin.plugin.negatives_watch import NegativesWatch
from hardneg_plugin.plugin.objective_checkpoint import ObjectiveCheckpoint
from hardneg_plugin.plugin.signatures import constructor_shown_as, step_shown_as
from hardneg_plugin.plugin.step_in_parts import StepInParts
from hardneg_plugin.plugin.trainable import check_reads_edits, check_trainable

_NAME = "hard_negatives"
_KEYWORDS = (_NAME, "chunks")
"""Keywords of the mixin's constructor that no host gets."""
_CANNOT_READ = (
    "token_weights, likelihood_margin and edit_margin read each report again: let {} define "
    "token_losses(self, batch, outputs, image_order=None, towards=None) -> TokenLosses, or set them to None."
)


class HardNegativeMixin(ObjectiveCheckpoint, StepInParts):
    """Add increasingly hard negatives to an existing report generator.

    Put it before the host among the bases, define `embed`, and pass the objective. The host keeps its validation, optimizers and
    callbacks, and runs its forward once. Its `training_step` returns None, a scalar or a mapping with "loss"; `embed` gets what it
    returns, still attached to the graph. The total loss is
    `weights.report * loss + weights.alignment * alignment_loss + weights.separation * separation_loss`.

    Logged under `train/`, as means over all ranks: report_loss, alignment_loss, separation_loss, hardness, positive_similarity,
    negative_similarity (of hard negatives), hardened_similarity, negatives_found (their share of those wanted),
    false_negative_share (of all pairs) and non_finite_share (of studies with features that are not finite or of length zero: the
    objective leaves them out, and the first of them is warned of). Several ranks take these means in the steps
    that Lightning writes (`log_every_n_steps`), the first ten and the last of an epoch; `callback_metrics` hold the latest.

    In a checkpoint, `state_dict` loads into the bare host class, as `host_state_dict(model)` does; the weights of the objective are
    beside it, under `hard_negatives`. From a checkpoint without them the objective starts afresh, with a warning.

    With `chunks=N` the host's step, `embed` and `chunk_weight` run on N parts of the batch under activation checkpointing, and the
    contrast is over the whole batch: the exact gradient with the activations of one part, for one more forward
    (`plugin.chunks`). The report loss is the mean over parts, weighted by `chunk_weight`, and what the host logs likewise. Batch
    norms in training take their statistics from a part.

    Args:
        hard_negatives: the objective, left out of saved hyperparameters; None: `HardNegativeObjective()`. All other arguments but
            `chunks` go to the host.
        chunks: into how many parts each batch is split by study, or a callable from the batch to its parts; left out of saved
            hyperparameters. None: one, the step as it is.

    >>> import pytorch_lightning as pl  # or: import lightning.pytorch as pl
    >>> class Host(pl.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.image, self.text = torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)
    ...
    ...     def training_step(self, batch, batch_idx):
    ...         images, reports = self.image(batch["images"]), self.text(batch["reports"])
    ...         return {"loss": (images - reports).square().mean(), "images": images, "reports": reports}
    >>> class HardNegativeHost(HardNegativeMixin, Host):
    ...     def embed(self, batch, outputs):
    ...         return PairEmbeddings(images=outputs["images"], reports=outputs["reports"], study_ids=batch["id"])
    >>> model = HardNegativeHost(hard_negatives=HardNegativeObjective())

    Raises:
        UserError: at the start of training, if the host optimises manually without `with_hard_negatives` or takes
            `dataloader_iter`, no optimizer holds the parameters of the objective, or its schedule counts in fractions of a training
            without an end.
    """

    hard_negatives: HardNegativeObjective
    _added = False
    _negatives_watch: NegativesWatch | None = None
    _features_watch: FeaturesWatch | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if lightning_module_of(cls) is None:  # still without a host
            return
        if cls.training_step is HardNegativeMixin.training_step:
            cls.training_step = step_shown_as(cls.training_step, super().training_step)  # type: ignore
        if cls.__init__ is HardNegativeMixin.__init__:
            cls.__init__ = constructor_shown_as(cls.__init__, super().__init__, _KEYWORDS)  # type: ignore

    def __init__(
        self,
        *args: Any,
        hard_negatives: HardNegativeObjective | None = None,
        chunks: Chunks | None = None,
        **kwargs: Any,
    ) -> None:
        # save_hyperparameters reads the arguments of every frame, the outer ones last: those of the host must count
        arguments, kwargs = kwargs, {}
        super().__init__(*args, **arguments)
        self.hard_negatives = self._default_objective() if hard_negatives is None else hard_negatives
        self._objective_is_default = hard_negatives is None
        if chunks is not None:
            self._chunks = check_chunks(chunks)

    def embed(self, batch: Any, outputs: Any) -> PairEmbeddings:
        """Pooled image and report features of a batch, attached to the graph.

        Args:
            batch: as the host's `training_step` gets it.
            outputs: what the host's `training_step` returned.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define embed(self, batch, outputs) -> PairEmbeddings(images=(B, D), reports=(B, D), ...)."
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def with_hard_negatives(self, loss: Tensor, batch: Any, outputs: Any) -> Tensor:
        """A loss of the host with the weighted terms of the objective, for a `training_step` that optimises manually.

        Call it there before `manual_backward`, with the loss of the generator: nothing is added to what such a step returns.

        Args:
            loss: scalar.
            batch: as `embed` gets it.
            outputs: for `embed`, whatever it needs from the step.

        >>> def training_step(self, batch, batch_idx):
        ...     outputs = self.generator(batch)
        ...     loss = self.with_hard_negatives(outputs["loss"], batch, outputs)
        ...     self.manual_backward(loss)
        """
        if self._part_log is not None:
            raise UserError(
                "with_hard_negatives contrasts a part of the batch only, where chunks contrast all: leave it out."
            )
        self._added = True
        pairs = self.embed(batch, outputs)
        statements = self.embed_statements(batch, outputs) if self.hard_negatives.statement_texts else None
        return self._with_terms(loss, pairs, statements, partial(self._read_reports, batch, outputs))

    def token_losses(
        self, batch: Any, outputs: Any, image_order: Tensor | None = None, towards: Tensor | None = None
    ) -> TokenLosses:
        """The token losses of a batch of B reports with other images: those of the host's method of this name, if it has one.

        Called if the objective `reads_reports`.

        Args:
            batch, outputs: as of `embed`.
            image_order, towards: as of `ReadReports`.
        """
        if not self._host_reads_reports:
            raise UserError(_CANNOT_READ.format(type(self).__name__))
        read: TokenLosses = super().token_losses(batch, outputs, image_order, towards)
        return read

    def edited_token_losses(self, batch: Any, outputs: Any, changes: int) -> TokenLosses:
        """The token losses of edited copies of B reports with the reports' images: those of the host's method of this name.

        Called if the objective has an `edit_margin`.

        Args:
            batch, outputs: as of `embed`.
            changes: of findings in each copy.
        """
        check_reads_edits(self, self._host_reads_edits)
        read: TokenLosses = super().edited_token_losses(batch, outputs, changes)
        return read

    @property
    def _host_reads_reports(self) -> bool:
        return hasattr(super(), "token_losses")

    @property
    def _host_reads_edits(self) -> bool:
        return hasattr(super(), "edited_token_losses")

    def _read_reports(
        self,
        batch: Any,
        outputs: Any,
        image_order: Tensor | None = None,
        towards: Tensor | None = None,
        *,
        changes: int | None = None,
    ) -> TokenLosses:
        if changes is not None:
            return self.edited_token_losses(batch, outputs, changes)
        return self.token_losses(batch, outputs, image_order, towards)

    def embed_statements(self, batch: Any, outputs: Any) -> Tensor | None:
        """Features `(2, Q, D)` of the objective's `statement_texts`, pooled as reports are; called if there are such texts.

        Args:
            batch, outputs: as of `embed`.
        """
        return None

    # torch.compile(model) compiles the host's step: what is around it counts and logs, and changes from step to step
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The host's step, with the terms of the objective added to its loss."""
        # the first argument, whatever its name is
        name = None if args else next(iter(inspect.signature(self.training_step).bind(**kwargs).arguments))
        batch = args[0] if name is None else kwargs[name]
        self._added = False
        if self._chunks == 1:
            outputs = self._host_step(*args, **kwargs)
            if self._added or not self.automatic_optimization:
                return outputs
            whole = self._read(batch, outputs)
        elif name is None:
            whole = self._in_parts(batch, lambda part: self._host_step(part, *args[1:], **kwargs))
        else:
            whole = self._in_parts(batch, lambda part: self._host_step(**{**kwargs, name: part}))
        if whole.loss is None or whole.pairs is None:
            return whole.outputs
        read = partial(self._read_reports, batch, whole.outputs)
        loss = self._with_terms(whole.loss, whole.pairs, whole.statements, read)
        return {**whole.outputs, "loss": loss} if isinstance(whole.outputs, Mapping) else loss

    def on_fit_start(self) -> None:
        """Check that the objective can be trained, before the first step."""
        super().on_fit_start()
        check_trainable(self, self._chunks)
        if self.hard_negatives.edit_margin is not None:
            check_reads_edits(self, self._host_reads_edits)
        self._negatives_watch, self._features_watch = NegativesWatch(), FeaturesWatch()

    def on_train_epoch_end(self) -> None:
        """Warn of features that are not finite, if there were any."""
        super().on_train_epoch_end()
        if self._features_watch is not None:
            self._features_watch.look()

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """As the host's, without the objective: a module is no hyperparameter. Arguments are those of Lightning."""
        ignore = [ignore] if isinstance(ignore, str) else list(ignore or ())
        current = inspect.currentframe()
        frame = frame or (current.f_back if current else None)
        super().save_hyperparameters(*args, ignore=[*ignore, *_KEYWORDS], frame=frame, logger=logger)

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def _host_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(*args, **kwargs)

    def _with_terms(
        self, report_loss: Tensor, pairs: PairEmbeddings, statements: Tensor | None, read: ReadReports
    ) -> Tensor:
        terms = self._terms(pairs, statements, report_loss, read)
        return total_loss(self.hard_negatives.weights, report_loss, terms)

    def _default_objective(self) -> HardNegativeObjective:
        return HardNegativeObjective()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _terms(
        self, pairs: PairEmbeddings, statements: Tensor | None, report_loss: Tensor, read: ReadReports
    ) -> ObjectiveOutput:
        given: dict[str, Any] = {} if statements is None else {"statements": statements}
        if self.hard_negatives.reads_reports:
            given["read"] = read
        progress = self._progress()
        terms: ObjectiveOutput = self.hard_negatives(pairs, progress, **given)
        if self._features_watch is not None:
            self._features_watch(terms.logs["non_finite_share"])
        if world_size() == 1 or self._are_logs_read():
            self._log(terms.logged(report_loss), len(pairs.images), progress)
        return terms

    def _log(self, local: dict[str, Tensor], studies: int, progress: TrainingProgress) -> None:
        means = dict(zip(local, mean_over_ranks(torch.stack(list(local.values()))).unbind(), strict=True))
        if self._negatives_watch is not None:
            self._negatives_watch(means["negatives_found"], studies, self.hard_negatives, progress)
        for name, mean in means.items():
            self.log(f"train/{name}", mean, batch_size=studies)

    def _are_logs_read(self) -> bool:
        """Whether Lightning or `NegativesWatch` reads what this step logs; the same on all ranks."""
        if not self.automatic_optimization or self.trainer.is_last_batch:
            return True
        is_watched = self._negatives_watch is not None and self._negatives_watch.is_looking
        every = self.trainer.log_every_n_steps
        return is_watched or (every > 0 and (self.trainer.global_step + 1) % every == 0)

    def _progress(self) -> TrainingProgress:
        total = self.trainer.estimated_stepping_batches
        step = self.trainer.global_step
        done = 0.0 if math.isinf(total) else step / max(total, 1)
        if not self.automatic_optimization and not math.isinf(total):
            # each optimizer's steps count in global_step and in max_steps, but not in the estimate, which counts batches
            step = self.trainer.fit_loop.total_batch_idx
            of_steps = self.trainer.global_step / self.trainer.max_steps if self.trainer.max_steps > 0 else 0.0
            done = max(step / max(total, 1), of_steps)
        fraction = min(1.0, done)
        return TrainingProgress(step=step, epoch=self.trainer.current_epoch, fraction=fraction)
