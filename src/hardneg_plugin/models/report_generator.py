"""Report generators as LightningModules: from images to words."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual import VisualFeatures
from hardneg_plugin.data.studies import Batch, FindingsReader
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.report_scores import EvaluationEmbeddings, ReportScores
from hardneg_plugin.models.base import Evaluated, StepOutputs, StudyModel, move_to_device
from hardneg_plugin.models.report_io import Images, WrittenReport, read_views, report_of, studies_of


def report_losses(log_probs: Tensor, tokens: Tensor, token_mask: Tensor) -> Tensor:
    """Of each report the negative log-probability of its words, `-Σ logprob(target) mask`, and how many they are: `(B, 2)`.

    Args:
        log_probs: `(B, T - 1, V + 1)`, teacher-forced.
        tokens: `(B, T)` int64, `[0, words..., 0, padding 0...]`.
        token_mask: `(B, T)` bool, True over `[0, words..., 0]`.
    """
    mask = token_mask[:, 1:]
    losses = -log_probs.gather(2, tokens[:, 1:, None])[:, :, 0]
    return torch.stack([(losses * mask).sum(1), mask.sum(1).to(losses.dtype)], dim=1)


class ReportGenerator(StudyModel[ReportScores]):
    """A report generator: visual extractor, report decoder, teacher-forced training, beam search, scores.

    With `grounding` the decoder attends to the patches and to what was found of each prompt. Added to the patches instead,
    `V + CrossAttn(V, g)`, what was found became large and nearly the same for all images, beside which their differences were
    lost (docs/METHOD.md).

    Args:
        backbone: makes the report decoder, called with `vocab_size` and `patch_width`.
        tokenizer: words to ids; its state is part of every checkpoint.
        decoding: how reports are written; None: a beam search of 3 up to 60 words.
        caption: caption scores for validation and test; None leaves them out (then nothing needs pycocoevalcap).
        read_findings: reads findings out of a text, where the data set knows how.
        compile: run visual extractor and teacher-forced decoder through torch.compile.
        arguments: of `StudyModel`: visual, optimizer, grounding, lr_schedule, lr_interval, visual_lr, decay_vectors, channels_last.
    """

    image_size: int | None = None
    """Height and width in pixels that `generate` gives images; of a run, those of its training. None: not known."""

    def __init__(
        self,
        *,
        backbone: Callable[..., ReportDecoder],
        tokenizer: Tokenizer,
        decoding: Decoding | None = None,
        caption: CaptionScores | None = None,
        read_findings: FindingsReader | None = None,
        compile: bool = False,
        **arguments: Any,
    ) -> None:
        def make_scores(split: Evaluated) -> ReportScores:
            return ReportScores(caption=caption, read_findings=read_findings, cut=split == "test")

        super().__init__(tokenizer=tokenizer, make_scores=make_scores, compile=compile, **arguments)
        self.decoder = backbone(vocab_size=tokenizer.vocab_size, patch_width=self.visual.width)
        self.entity_projection = (  # what was found of each prompt, in the width of the patches
            nn.Linear(self.visual.grounding.width, self.visual.width)
            if isinstance(self.visual, GroundedVisual)
            else None
        )
        self._decoding = decoding or Decoding()
        if compile:
            self.decoder.states = torch.compile(self.decoder.states)  # type: ignore[method-assign]

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        checkpoint: str | Path = "best",
        device: str | torch.device | None = None,
        trust: bool = False,
        *,
        image_size: int | None = None,
    ) -> "ReportGenerator":
        """A trained generator, ready to write: `ReportGenerator.from_run("outputs/mine").generate("chest.png")[0].text`.

        It is in evaluation mode, without what exists in training and scoring only: hard negatives and caption scores. No file
        that training read is needed.

        Args:
            path: the run folder, or a .ckpt file in its `checkpoints/`.
            checkpoint: "best", or the last where training kept no best; "last"; or the path of a .ckpt file.
            device: where to run; None: a GPU where there is one.
            trust: build whatever the run's config names. Otherwise only what our own configs name is built, so that the run
                folder of someone else runs no code of theirs.
            image_size: pixels; needed for a run whose config does not tell.

        Raises:
            UserError: there is no such run or checkpoint, it cannot be read, or it is not to be trusted.
        """
        from hardneg_plugin.runs.inference_model import (
            load_inference_model,  # Hydra is imported there, and only needed for this
        )

        model, size = load_inference_model(Path(path), str(checkpoint), trust=trust, image_size=image_size)
        if not isinstance(model, cls):
            raise UserError(
                f"{path}: expected the run of a {cls.__name__}, but it is that of a {type(model).__name__}."
            )
        model.image_size = size
        return move_to_device(model, device).eval()

    def generate(
        self,
        images: Images,
        *,
        beam_size: int | None = None,
        max_length: int | None = None,
        batch_size: int = 16,
        attention: bool = False,
    ) -> list[WrittenReport]:
        """Write a report for each study, in evaluation mode and without gradient; the mode is restored.

        Args:
            images: one image, a list of images (a study each), or a list of lists (the views of a study each). An image is a
                path, a Pillow image, or gray values of 0 to 255 `(H, W)` or `(1, H, W)` uint8, of any size.
            beam_size, max_length: of the search; None: as in training.
            batch_size: studies at a time.
            attention: keep what each word attended to.

        Raises:
            UserError: an image cannot be read, or a number is out of its range.
        """
        if self.image_size is None:
            raise UserError("Expected to know the size of the images: set image_size to what the model was trained on.")
        if batch_size < 1:
            raise UserError(f"Expected `batch_size` of at least 1, but got {batch_size}.")
        own = self._decoding
        decoding = replace(
            own,
            num_return=1,
            beam_size=own.beam_size if beam_size is None else beam_size,
            max_length=own.max_length if max_length is None else max_length,
        )
        studies = studies_of(images)
        written: list[WrittenReport] = []
        with evaluating(self), torch.no_grad():
            for start in range(0, len(studies), batch_size):
                views = [read_views(study, self.image_size) for study in studies[start : start + batch_size]]
                written += self._reports_of(views, decoding, attention)
        return written

    def encode_images(self, batch: Batch) -> VisualFeatures:
        """Visual features, with the projected entities of a grounded model."""
        return self._with_projected_entities(super().encode_images(batch))

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> list[str]:
        """Write a report per study: images `(B, V, 1, H, W)` uint8, `view_mask (B, V)` bool or None."""
        visual = self._with_projected_entities(self.visual(images, view_mask))
        return self._texts(self._write(visual))

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """The report loss, and the features that an objective may align."""
        outputs = self._teacher_forced(batch)
        size = len(batch["ids"])
        self.log("train/report_loss", outputs["loss"].detach(), batch_size=size)
        self.log("loss", outputs["loss"].detach(), prog_bar=True, logger=False, batch_size=size)
        return outputs

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Report loss, generated reports and their scores."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutputs:
        """Report loss, generated reports and their scores."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """The generated reports of a batch."""
        reports: list[str] = self(batch["images"], batch["view_mask"])
        return reports

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what builds the decoder without other files, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["backbone"] = self.decoder.settings

    def _with_projected_entities(self, visual: VisualFeatures) -> VisualFeatures:
        if self.entity_projection is None:
            return visual
        return visual._replace(projected_entities=self.entity_projection(visual.entities))

    def _teacher_forced(self, batch: Batch) -> StepOutputs:
        visual = self.encode_images(batch)
        states = self.decoder.states(visual.context, batch["tokens"], patch_mask=visual.context_mask)
        losses = report_losses(self.decoder.classify(states), batch["tokens"], batch["token_mask"])
        loss, tokens = losses.sum(0)
        return {"loss": loss / tokens, "losses": losses.detach(), "states": states, "visual": visual}

    def _write(self, visual: VisualFeatures) -> Tensor:
        """The tokens of a generated report per study, zeros after them: `(B, T)`."""
        return self.decoder.decode(visual.context, self._decoding, patch_mask=visual.context_mask).tokens[:, 0]

    def _texts(self, tokens: Tensor) -> list[str]:
        return [self.tokenizer.decode(row) for row in tokens.tolist()]

    def _reports_of(self, studies: list[Tensor], decoding: Decoding, attention: bool) -> list[WrittenReport]:
        """A report for each of B studies, `(V, 1, H, W)` uint8 each."""
        counts = torch.tensor([len(views) for views in studies])
        view_mask = torch.arange(int(counts.max())) < counts[:, None]
        images = pad_sequence(studies, batch_first=True).to(self.device)
        visual = self._with_projected_entities(self.visual(images, view_mask.to(self.device)))
        decoded = self.decoder.decode(visual.context, decoding, patch_mask=visual.context_mask, attention=attention)
        tokens = decoded.tokens[:, 0].tolist()
        if decoded.attention is None:
            return [report_of(self.tokenizer, row) for row in tokens]
        maps = visual.on_patches(decoded.attention[:, 0].mean((1, 2))).float().cpu()
        return [
            report_of(self.tokenizer, row, of_study[:, :count])
            for row, of_study, count in zip(tokens, maps, counts.tolist(), strict=True)
        ]

    def _evaluate(self, batch: Batch, split: Evaluated) -> StepOutputs:
        outputs = self._teacher_forced(batch)
        tokens = self._write(outputs["visual"])
        embeddings = self._embeddings(batch, outputs["visual"], tokens)
        self.scores_of(split).update(batch, self._texts(tokens), outputs["losses"], embeddings)
        return outputs

    def _embeddings(self, batch: Batch, visual: VisualFeatures, tokens: Tensor) -> EvaluationEmbeddings | None:
        """Of images, references and generated reports `(B, T)`, in the space of the objective; None without one."""
        return None

    def _log_scores(self, split: Evaluated) -> None:
        super()._log_scores(split)
        self.scores_of(split).warn_of_collapse()
