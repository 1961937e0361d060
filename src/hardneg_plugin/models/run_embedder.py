"""Report embeddings by the model of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.decoder import evaluating
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.neighbours.embedders import TextEmbeddings
from hardneg_plugin.runs.checkpoint import find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder


@dataclass(frozen=True)
class RunEmbedder:
    """A run whose model embeds reports; `load` reads it.

    Args:
        run: the run folder.
        checkpoint: `best`, `last`, or the path of a .ckpt file.
        batch_size: reports at a time, >= 1.
        device: as in torch.
    """

    run: str
    checkpoint: str = "best"
    batch_size: int = 64
    device: str = "cpu"

    # trust is no field: an untrusted config could set it
    def load(self, *, trust: bool = False) -> "ModelEmbedder":
        """The embedder.

        Args:
            trust: build any class that the run's config names.

        Raises:
            UserError: the run or the checkpoint cannot be read, or is not trusted.
        """
        folder = RunFolder.existing(self.run)
        config = folder.read_config(trust=trust)
        model: ReportGenerator | AlignedModel = load_trained_model(
            config.model, find_checkpoint(folder, self.checkpoint), trust=trust
        )
        return ModelEmbedder(model, config.data.max_length, self.batch_size, self.device)


@dataclass(frozen=True)
class ModelEmbedder:
    """An `Embedder` by a trained model, without images.

    An `AlignedModel` embeds reports in the space of its objective, a bare generator as the mean of text-only states.

    Args:
        model: a report generator, or any `AlignedModel`.
        max_length: tokens kept of a report, as in training.
        batch_size: reports at a time, >= 1.
        device: as in torch.
    """

    model: ReportGenerator | AlignedModel
    max_length: int
    batch_size: int = 64
    device: str = "cpu"

    def __call__(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `Embedder`."""
        model = self.model.to(self.device)
        with evaluating(model), torch.inference_mode():
            batches = [
                self._batch(texts[start : start + self.batch_size]) for start in range(0, len(texts), self.batch_size)
            ]
        return torch.cat(batches)

    def _batch(self, texts: Sequence[str]) -> Tensor:
        if isinstance(self.model, AlignedModel):
            return self.model.embed_texts(texts, self.max_length).cpu()
        model = cast(ReportGenerator, self.model)
        tokens, mask = model.tokenize(texts, self.max_length)
        pooled = masked_mean(model.decoder.text_states(tokens), mask[:, 1:])
        return F.normalize(pooled.float(), dim=-1).cpu()
