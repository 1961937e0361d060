"""Report generators as LightningModules."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.packed import Precision
from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.data.studies import Batch, FindingsReader
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.distributed import share_of_ranks
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import TokenLosses, token_losses
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.report_scores import EvaluationEmbeddings, ReportScores
from hardneg_plugin.models.base import Evaluated, StepOutputs, StudyModel
from hardneg_plugin.models.likelihood_ranks import LikelihoodRanks
from hardneg_plugin.models.other_images import other_images
from hardneg_plugin.models.report_io import GeneratedReport, Images, generated_report, group_views, read_views
from hardneg_plugin.models.saved_generator import SavedGenerator
from hardneg_plugin.progress import Tracking

FEW_STEPS = 10
"""A model that was trained so little writes the same for all studies, which needs no warning."""


class ReportGenerator(SavedGenerator, StudyModel[ReportScores]):
    """A report generator: visual extractor and report decoder, trained with teacher forcing, scored on generated reports.

    With `grounding` the decoder attends to the patches and to one entity per prompt. Adding the entities to the patches instead,
    `V + CrossAttn(V, g)`, drowned the differences between images (docs/METHOD.md).

    Args:
        backbone: makes the report decoder, called with `vocab_size` and `patch_width`.
        tokenizer: text to token ids; every checkpoint holds its state.
        decoding: options of decoding; None: `Decoding()`.
        caption: caption scores for validation and test; None: no such scores, and no need of pycocoevalcap.
        read_findings: reads findings from a text; None: no scores of findings.
        rank_by_likelihood: the splits whose studies are ranked by likelihood among their peers (`LikelihoodRanks`).
        compile: run visual extractor and teacher-forced decoder through torch.compile.
        arguments: of `StudyModel`: visual, optimizer, grounding, lr_schedule, lr_interval, visual_lr, decay_vectors, channels_last.

    A trained generator writes a report for an image file:

        model = ReportGenerator.from_run("outputs/mine")
        print(model.generate("chest.png")[0].text)

    `from_pretrained` does the same for an exported folder or a repository of the Hugging Face hub.

    One that is not trained:

    >>> from functools import partial
    >>> from hardneg_plugin.backbones.transformer import TransformerDecoder
    >>> from hardneg_plugin.backbones.visual import VisualExtractor
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> model = ReportGenerator(
    ...     visual=VisualExtractor("resnet10t"),
    ...     backbone=partial(TransformerDecoder, width=8, heads=2, layers=1, feedforward_width=8),
    ...     tokenizer=WordTokenizer.from_reports(["heart size is normal", "small effusion"], min_count=1),
    ...     optimizer=torch.optim.AdamW,
    ...     caption=None,
    ... )
    >>> model.image_size = 32
    >>> len(model.generate([torch.zeros(40, 40, dtype=torch.uint8)] * 2, max_length=4))
    2
    """

    def __init__(
        self,
        *,
        backbone: Callable[..., ReportDecoder],
        tokenizer: Tokenizer,
        decoding: Decoding | None = None,
        caption: CaptionScores | None = None,
        read_findings: FindingsReader | None = None,
        rank_by_likelihood: Sequence[Evaluated] = (),
        compile: bool = False,
        **arguments: Any,
    ) -> None:
        def make_scores(split: Evaluated) -> ReportScores:
            return ReportScores(caption=caption, read_findings=read_findings, cut=split == "test")

        super().__init__(tokenizer=tokenizer, make_scores=make_scores, compile=compile, **arguments)
        self.decoder = backbone(vocab_size=tokenizer.vocab_size, patch_width=self.visual.width)
        self.entity_projection = (  # from the width of entities to that of patches
            nn.Linear(self.visual.grounding.width, self.visual.width)
            if isinstance(self.visual, GroundedVisual)
            else None
        )
        self.decoding = decoding or Decoding()
        self._token_share: Callable[[], Tensor] | Tensor | None = None  # of this rank in the batch
        self._ranks = {split: LikelihoodRanks() for split in rank_by_likelihood}
        if compile:
            self.decoder.states = torch.compile(self.decoder.states)  # type: ignore[method-assign]

    def generate(
        self,
        images: Images,
        *,
        beam_size: int | None = None,
        max_length: int | None = None,
        precision: Precision | None = None,
        batch_size: int = 16,
        attention: bool = False,
    ) -> list[GeneratedReport]:
        """Generate a report for each study, in evaluation mode and without gradient; the mode is restored.

        Args:
            images: one image, a list of images (a study each), or a list of lists (the views of a study each). An image is a
                path, a Pillow image, or gray values `(H, W)` or `(1, H, W)` uint8 of any size.
            beam_size, max_length, precision: as in `Decoding`; None: those of the model.
            batch_size: studies at a time, >= 1.
            attention: return attention maps, too.

        Raises:
            UserError: an image cannot be read, or an argument is out of range.
        """
        if self.image_size is None:
            raise UserError(
                "Expected `image_size` to be set, but it is None: set it to the size of the training images."
            )
        if batch_size < 1:
            raise UserError(f"Expected `batch_size` to be a positive integer, but got {batch_size}.")
        given = {"beam_size": beam_size, "max_length": max_length, "precision": precision}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        decoding = replace(self.decoding, num_return=1, **changes)
        studies = group_views(images)
        reports: list[GeneratedReport] = []
        with evaluating(self), torch.no_grad():
            for start in range(0, len(studies), batch_size):
                views = [read_views(study, self.image_size) for study in studies[start : start + batch_size]]
                reports += self._generate_batch(views, decoding, attention)
        return reports

    def encode_images(self, batch: Batch) -> VisualFeatures:
        """Visual features, with the projected entities of a grounded model."""
        return self._with_projected_entities(super().encode_images(batch))

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> list[str]:
        """Generate a report for each study.

        Args:
            images: `(B, V, 1, H, W)` uint8.
            view_mask: `(B, V)` bool, True where there is a view; None: all are there.
        """
        visual = self._with_projected_entities(self.visual(images, view_mask))
        return self._texts(self._generate_tokens(visual))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin to exchange the numbers of tokens with the other ranks; one collective, which the forward pass hides."""
        super().on_train_batch_start(batch, batch_idx)
        self._token_share = share_of_ranks(batch["token_mask"][:, 1:].sum())

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Report loss, whose mean over the ranks is the mean over the tokens of all, and the features that an objective reads."""
        outputs = self._teacher_forced(batch)
        if callable(self._token_share):  # once a batch, also where chunks take this step several times
            self._token_share = self._token_share()
        if self._token_share is not None:
            outputs["loss"] = outputs["loss"] * self._token_share
        size = len(batch["ids"])
        self.log("train/report_loss", outputs["loss"].detach(), batch_size=size)
        self.log("loss", outputs["loss"].detach(), prog_bar=True, logger=False, batch_size=size)
        return outputs

    def _evaluate(self, batch: Batch, split: Evaluated) -> StepOutputs:
        """Report loss; generate reports and update their scores."""
        outputs = self._teacher_forced(batch)
        tokens = self._generate_tokens(outputs["visual"])
        embeddings = self._embeddings(batch, outputs["visual"], tokens)
        self.scores_of(split).update(batch, self._texts(tokens), outputs["losses"], embeddings)
        if split in self._ranks and not self.trainer.sanity_checking:
            self._ranks[split].keep(batch, outputs["visual"])
        return outputs

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """The generated reports of a batch."""
        reports: list[str] = self(batch["images"], batch["view_mask"])
        return reports

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings that rebuild the decoder without other files."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["backbone"] = self.decoder.settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights are of the same vocabulary, and that those it leaves out are here."""
        super().on_load_checkpoint(checkpoint)
        self.decoder.check_settings(checkpoint.get("backbone", {}))

    def _with_projected_entities(self, visual: VisualFeatures) -> VisualFeatures:
        if self.entity_projection is None:
            return visual
        return visual._replace(projected_entities=self.entity_projection(visual.entities))

    def _teacher_forced(self, batch: Batch) -> StepOutputs:
        visual = self.encode_images(batch)
        states = self.decoder.states(visual.context, batch["tokens"], patch_mask=visual.context_mask)
        read = token_losses(self.decoder.classify(states), batch["tokens"], batch["token_mask"])
        if "emphasis" in batch:
            read = read._replace(emphasis=batch["emphasis"][:, 1:])
        losses = torch.stack([read.of_reports, read.mask.sum(1).to(read.losses.dtype)], dim=1)
        loss, tokens = losses.sum(0)
        return {
            "loss": loss / tokens,
            "losses": losses.detach(),
            "token_losses": read,
            "states": states,
            "visual": visual,
        }

    def token_losses(
        self, batch: Batch, outputs: StepOutputs, image_order: Tensor | None = None, towards: Tensor | None = None
    ) -> TokenLosses:
        """The token losses of a batch of B reports, teacher-forced, with other images of the batch.

        Args:
            batch: of B studies.
            outputs: of a step on them.
            image_order, towards: as of `other_images`; None: its own image.
        """
        if image_order is None:
            return outputs["token_losses"]
        others, mask = other_images(outputs["visual"], image_order, towards, outputs.get("paired_visual"))
        log_probs = self.decoder.log_probs(others, batch["tokens"], patch_mask=mask)
        return token_losses(log_probs, batch["tokens"], batch["token_mask"])

    def edited_token_losses(self, batch: Batch, outputs: StepOutputs, changes: int) -> TokenLosses:
        """The token losses of edited copies of the reports of a batch, teacher-forced, with the reports' images.

        Args:
            batch: of B studies, with edited copies.
            outputs: of a step on them.
            changes: of findings in each copy.

        Raises:
            UserError: the batch has no copies with so many changes.
        """
        if "edited_tokens" not in batch or not 1 <= changes <= batch["edited_tokens"].shape[1]:
            raise UserError(
                f"edit_margin reads copies of reports with {changes} changed findings, but the batch has none: set "
                "data.datamodule.edits, as edit_margin=softplus does."
            )
        tokens, mask = batch["edited_tokens"][:, changes - 1], batch["edited_mask"][:, changes - 1]
        visual = outputs["visual"]
        log_probs = self.decoder.log_probs(visual.context, tokens, patch_mask=visual.context_mask)
        return token_losses(log_probs, tokens, mask)

    def _generate_tokens(self, visual: VisualFeatures) -> Tensor:
        """Tokens `(B, T)` of a generated report for each study, padded with 0."""
        return self.decoder.decode(visual.context, self.decoding, patch_mask=visual.context_mask).tokens[:, 0]

    def _texts(self, tokens: Tensor) -> list[str]:
        return [self.tokenizer.decode(row) for row in tokens.tolist()]

    def _generate_batch(self, studies: list[Tensor], decoding: Decoding, attention: bool) -> list[GeneratedReport]:
        """A generated report for each of B studies `(V, 1, H, W)` uint8."""
        counts = torch.tensor([len(views) for views in studies])
        view_mask = torch.arange(int(counts.max())) < counts[:, None]
        images = pad_sequence(studies, batch_first=True).to(self.device)
        visual = self._with_projected_entities(self.visual(images, view_mask.to(self.device)))
        decoded = self.decoder.decode(visual.context, decoding, patch_mask=visual.context_mask, attention=attention)
        tokens = decoded.tokens[:, 0].tolist()
        if decoded.attention is None:
            return [generated_report(self.tokenizer, row) for row in tokens]
        maps = visual.on_patches(decoded.attention[:, 0].mean((1, 2))).float().cpu()
        return [
            generated_report(self.tokenizer, row, study_maps[:, :count])
            for row, study_maps, count in zip(tokens, maps, counts.tolist(), strict=True)
        ]

    def _embeddings(self, batch: Batch, visual: VisualFeatures, tokens: Tensor) -> EvaluationEmbeddings | None:
        """Embeddings of images, references and generated reports with tokens `(B, T)`; None without an objective."""
        return None

    def _log_scores(self, split: Evaluated) -> None:
        if split in self._ranks:
            bar = self.trainer.progress_bar_callback
            track = partial(bar.track, name="ranking by likelihood") if isinstance(bar, Tracking) else iter
            self.scores_of(split).add_measured(self._ranks[split].compute(self.decoder, self.device, track=track))
        super()._log_scores(split)
        if not 0 < self.trainer.global_step < FEW_STEPS:  # 0: a finished run that is scored
            self.scores_of(split).warn_of_collapse()
