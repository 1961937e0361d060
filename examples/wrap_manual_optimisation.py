"""Hard negatives in a step that optimises by hand: two optimizers, each with its own rate and clipping.

Lightning calls no backward for such a module, so its own step asks for the terms: `self.with_hard_negatives(loss, batch, outputs)`
(half a minute on a CPU).
"""

import pytorch_lightning as pl
import torch
from wrap_your_module import Captioner, built_in_studies, train

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings
from hardneg_plugin.objectives import Weights


class TwoOptimizers(HardNegativeMixin, Captioner):
    """The CNN learns slowly and is clipped; words, LSTM and the objective's heads learn faster."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(
            vocab_size=vocab_size,
            hard_negatives=HardNegativeObjective(
                image_width=64, report_width=32, width=16, weights=Weights(alignment=1.0)
            ),
        )
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        outputs = Captioner.training_step(self, batch, batch_idx)
        loss = self.with_hard_negatives(outputs["loss"], batch, outputs)
        cnn, rest = self.optimizers()
        cnn.zero_grad()
        rest.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(cnn, gradient_clip_val=1.0)
        cnn.step()
        rest.step()

    def embed(self, batch, outputs):
        return PairEmbeddings(
            images=outputs["pooled"], reports=outputs["words"], study_ids=batch["ids"], texts=batch["references"]
        )

    def configure_optimizers(self):
        slow = list(self.cnn.parameters())
        fast = [p for name, p in self.named_parameters() if not name.startswith("cnn.")]
        return torch.optim.Adam(slow, lr=2e-3), torch.optim.Adam(fast, lr=3e-3)


def main() -> None:
    pl.seed_everything(1, verbose=False)
    loader, tokenizer = built_in_studies()
    train(TwoOptimizers(tokenizer.vocab_size), loader, epochs=8)


if __name__ == "__main__":
    main()
