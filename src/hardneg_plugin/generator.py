"""Report generators as LightningModules: from images to words."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual import VisualExtractor, VisualFeatures
from hardneg_plugin.data.studies import Batch, FindingsReader
from hardneg_plugin.data.tokenizer import Tokenizer, check_vocabulary
from hardneg_plugin.errors import UserError
from hardneg_plugin.grounding import Grounding
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.optimization import clip_gradients, parameter_groups
from hardneg_plugin.scoring.report_scores import Embeddings, ReportScores
from hardneg_plugin.writing import Images, WrittenReport, read_views, report_of, studies_of

Features = dict[str, Tensor]
Evaluated = Literal["val", "test"]

PROGRESS_BAR = ("BLEU-4", "CIDEr", "findings_F1", "R@5")
"""Scores that the progress bar shows beside the loss."""


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


class ReportGenerator(pl.LightningModule):
    """A report generator: visual extractor, report decoder, teacher-forced training, beam search, scores.

    Args:
        visual: images to patch features.
        grounding: makes the module that looks for what may be found, called with the width of the patches: what it finds goes to
            the decoder with them. None: there is none.
        backbone: makes the report decoder, called with `vocab_size` and `patch_width`.
        tokenizer: words to ids; its state is part of every checkpoint.
        optimizer: makes the optimizer out of parameter groups. Weights of one dimension (biases, norms, the logit scale)
            are exempt from weight decay unless `decay_vectors`.
        lr_schedule: makes the learning-rate schedule out of the optimizer; None keeps the rate. With
            `lr_interval="step"` it is called with `total_steps` too and stepped every optimizer step, else every epoch.
        visual_lr: learning rate of the visual extractor; None: that of the optimizer.
        decay_vectors: weight decay on weights of one dimension too.
        decoding: how reports are written; None: a beam search of 3 up to 60 words.
        caption: caption scores for validation and test; None leaves them out (then nothing needs pycocoevalcap).
        read_findings: reads findings out of a text, where the data set knows how.
        channels_last: keep the visual extractor's weights channels last, which convolutions on a GPU prefer.
        compile: run visual extractor and teacher-forced decoder through torch.compile.
    """

    image_size: int | None = None
    """Height and width in pixels that `generate` gives images; of a run, those of its training. None: not known."""

    def __init__(
        self,
        *,
        visual: VisualExtractor,
        backbone: Callable[..., ReportDecoder],
        tokenizer: Tokenizer,
        optimizer: Callable[..., Optimizer],
        grounding: Callable[[int], Grounding] | None = None,
        lr_schedule: Callable[..., LRScheduler] | None = None,
        lr_interval: Literal["step", "epoch"] = "step",
        visual_lr: float | None = None,
        decay_vectors: bool = False,
        decoding: Decoding | None = None,
        caption: CaptionScores | None = None,
        read_findings: FindingsReader | None = None,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if channels_last:
            visual = visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.visual = visual if grounding is None else GroundedVisual(visual, grounding)
        self.decoder = backbone(vocab_size=tokenizer.vocab_size, patch_width=visual.width)
        self.tokenizer = tokenizer
        self._make_optimizer, self._make_lr_schedule = optimizer, lr_schedule
        self._lr_interval, self._visual_lr, self._decay_vectors = lr_interval, visual_lr, decay_vectors
        self._decoding = decoding or Decoding()
        self.scores = nn.ModuleDict(
            {
                "val": ReportScores(caption=caption, read_findings=read_findings),
                "test": ReportScores(caption=caption, read_findings=read_findings, cut=True),
            }
        )
        if compile:
            self.visual.network.compile()
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
        from hardneg_plugin.runs.trained import model_to_write  # Hydra is imported there, and only needed for this

        model, size = model_to_write(Path(path), str(checkpoint), trust=trust, image_size=image_size)
        if not isinstance(model, cls):
            raise UserError(
                f"{path}: expected the run of a {cls.__name__}, but it is that of a {type(model).__name__}."
            )
        model.image_size = size
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return model.to(device).eval()
        except (RuntimeError, AssertionError) as error:  # as torch says that there is no such device
            raise UserError(f"device={device}: {str(error).splitlines()[0]}") from error

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

    def forward(self, images: Tensor, view_mask: Tensor | None = None) -> list[str]:
        """Write a report per study: images `(B, V, 1, H, W)` uint8, `view_mask (B, V)` bool or None."""
        features = self.visual(images, view_mask)
        return self._texts(self._write(features.patches, features.patch_mask))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The report loss, and the features that an objective may align."""
        outputs = self._teacher_forced(batch)
        size = len(batch["ids"])
        self.log("train/report_loss", outputs["loss"].detach(), batch_size=size)
        self.log("loss", outputs["loss"].detach(), prog_bar=True, logger=False, batch_size=size)
        return outputs

    def validation_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Tensor]:
        """Report loss, generated reports and their scores."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Tensor]:
        """Report loss, generated reports and their scores."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """The generated reports of a batch."""
        reports: list[str] = self(batch["images"], batch["view_mask"])
        return reports

    def on_validation_epoch_start(self) -> None:
        """Start the scores of a split anew."""
        self.scores_of("val").reset()

    def on_test_epoch_start(self) -> None:
        """Start the scores of a split anew."""
        self.scores_of("test").reset()

    def on_validation_epoch_end(self) -> None:
        """Score the split once, over all ranks."""
        if not self.trainer.sanity_checking:
            self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Score the split once, over all ranks."""
        self._log_scores("test")

    def configure_optimizers(self) -> Any:
        """One optimizer over all parameters, and its schedule."""
        optimizer = self._make_optimizer(
            parameter_groups(self.named_parameters(), visual_lr=self._visual_lr, decay_vectors=self._decay_vectors)
        )
        if self._make_lr_schedule is None:
            return optimizer
        arguments = {}
        if self._lr_interval == "step":
            total_steps = self.trainer.estimated_stepping_batches
            if math.isinf(total_steps):
                raise UserError(
                    "The learning-rate schedule counts all steps, but training has no end: set trainer.max_epochs or "
                    "trainer.max_steps, or lr_schedule=constant."
                )
            arguments["total_steps"] = int(total_steps)
        schedule = self._make_lr_schedule(optimizer, **arguments)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self._lr_interval}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """As Lightning does, and with a fused optimizer in bf16 too.

        Lightning refuses to clip under a fused optimizer in mixed precision, since that may unscale gradients by itself; in
        bf16 there is no scale.
        """
        if self.trainer.precision != "bf16-mixed":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the vocabulary with the weights that it indexes, and what builds the decoder without other files."""
        checkpoint["tokenizer"] = self.tokenizer.state()
        checkpoint["backbone"] = self.decoder.settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that index another vocabulary."""
        check_vocabulary(checkpoint, self.tokenizer)

    def scores_of(self, split: Evaluated) -> ReportScores:
        """What was measured on a split in the last validation or test."""
        return cast(ReportScores, self.scores[split])

    def see(self, batch: Batch) -> VisualFeatures:
        """What the visual extractor makes of a batch's images, and of its boxes where it looks at such."""
        boxes = {"boxes": batch["boxes"]} if "boxes" in batch and isinstance(self.visual, GroundedVisual) else {}
        features: VisualFeatures = self.visual(batch["images"], batch["view_mask"], **boxes)
        return features

    def _teacher_forced(self, batch: Batch) -> Features:
        visual = self.see(batch)
        states = self.decoder.states(visual.patches, batch["tokens"], patch_mask=visual.patch_mask)
        losses = report_losses(self.decoder.classify(states), batch["tokens"], batch["token_mask"])
        loss, words = losses.sum(0)
        return {
            "loss": loss / words,
            "losses": losses.detach(),
            "patches": visual.patches,
            "patch_mask": visual.patch_mask,
            "pooled": visual.pooled,
            "states": states,
            **({} if visual.entities is None else {"entities": visual.entities}),
        }

    def _write(self, patches: Tensor, patch_mask: Tensor) -> Tensor:
        """The words of a report per study, zeros after them: `(B, T)`."""
        return self.decoder.decode(patches, self._decoding, patch_mask=patch_mask).tokens[:, 0]

    def _texts(self, words: Tensor) -> list[str]:
        return [self.tokenizer.decode(row) for row in words.tolist()]

    def _reports_of(self, studies: list[Tensor], decoding: Decoding, attention: bool) -> list[WrittenReport]:
        """A report for each of B studies, `(V, 1, H, W)` uint8 each."""
        counts = torch.tensor([len(views) for views in studies])
        view_mask = torch.arange(int(counts.max())) < counts[:, None]
        images = pad_sequence(studies, batch_first=True).to(self.device)
        features = self.visual(images, view_mask.to(self.device))
        decoded = self.decoder.decode(features.patches, decoding, patch_mask=features.patch_mask, attention=attention)
        tokens = decoded.tokens[:, 0].tolist()
        if decoded.attention is None:
            return [report_of(self.tokenizer, row) for row in tokens]
        maps = decoded.attention[:, 0].mean((1, 2)).unflatten(-1, (-1, *features.grid)).float().cpu()
        return [
            report_of(self.tokenizer, row, of_study[:, :count])
            for row, of_study, count in zip(tokens, maps, counts.tolist(), strict=True)
        ]

    def _evaluate(self, batch: Batch, split: Evaluated) -> Features:
        outputs = self._teacher_forced(batch)
        words = self._write(outputs["patches"], outputs["patch_mask"])
        embeddings = self._embeddings(batch, outputs, words)
        self.scores_of(split).update(batch, self._texts(words), outputs["losses"], embeddings)
        return outputs

    def _embeddings(self, batch: Batch, outputs: Features, words: Tensor) -> Embeddings | None:
        """Of images, references and the reports just written, where there is a space in which these meet."""
        return None

    def _log_scores(self, split: Evaluated) -> None:
        # the same numbers on every rank already: nothing to synchronise
        for name, value in self.scores_of(split).compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name in PROGRESS_BAR)
        self.scores_of(split).warn_of_collapse()
