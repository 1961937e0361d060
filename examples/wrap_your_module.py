"""Five lines around a LightningModule that you already have.

`Captioner` stands for yours: a small CNN and LSTM, written without this package. `HardNegativeCaptioner` is what you add.
Run it: the alignment of images and reports improves while the captioner learns to write (half a minute on a CPU).
"""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.objectives import Weights


class Captioner(pl.LightningModule):
    """A module of yours, without hard negatives."""

    def __init__(self, vocab_size: int, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.cnn = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in [(1, 16), (16, 32), (32, 64)]
            ),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(1024, 64),
            nn.BatchNorm1d(64),
        )
        self.words = nn.Embedding(vocab_size + 1, 32)
        self.lstm = nn.LSTM(32 + 64, 64, batch_first=True)
        self.output = nn.Linear(64, vocab_size + 1)

    def training_step(self, batch, batch_idx):
        frontal = batch["images"][:, 0].float() / 255
        pooled = self.cnn(frontal)
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        words = self.words(inputs)
        states, _ = self.lstm(torch.cat([words, pooled[:, None].expand(-1, inputs.shape[1], -1)], dim=-1))
        mask = batch["token_mask"][:, 1:]
        loss = cross_entropy(self.output(states)[mask], targets[mask])
        # the mean of the word embeddings stands for the report
        reports = (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"loss": loss, "pooled": pooled, "words": reports}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class HardNegativeCaptioner(HardNegativeMixin, Captioner):
    def embed(self, batch, outputs):
        return PairEmbeddings(
            images=outputs["pooled"], reports=outputs["words"], study_ids=batch["ids"], texts=batch["references"]
        )


class Watch(pl.Callback):
    """Print after each epoch how much closer images are to positives than to hard negatives."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.gaps = []

    def on_train_batch_end(self, trainer, *_):
        logged = trainer.callback_metrics
        self.gaps.append((logged["train/positive_similarity"] - logged["train/negative_similarity"]).item())

    def on_train_epoch_end(self, trainer, pl_module):
        logged = trainer.callback_metrics
        print(
            f"epoch {trainer.current_epoch}: positive closer than the hard negative by {sum(self.gaps) / len(self.gaps):+.3f}, "
            f"hardness {logged['train/hardness']:.2f}, report loss {logged['train/report_loss']:.2f}"
        )


def built_in_studies(count=1000):
    """A loader of small chest studies, and the tokenizer of their reports; each batch is a dict."""
    studies = list(PhantomStudies(train=count, val=0, test=0, size=64).split("train"))
    tokenizer = WordTokenizer.from_reports([study["report"] for study in studies])
    collate = StudyCollator(tokenizer, max_length=64)
    return DataLoader(studies, batch_size=32, shuffle=True, collate_fn=collate), tokenizer


def train(model, loader, epochs):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch()],
    )
    trainer.fit(model, loader)
    return trainer


def main() -> None:
    pl.seed_everything(1, verbose=False)
    loader, tokenizer = built_in_studies()
    model = HardNegativeCaptioner(
        vocab_size=tokenizer.vocab_size,
        hard_negatives=HardNegativeObjective(image_width=64, report_width=32, width=16, weights=Weights(alignment=1.0)),
    )
    train(model, loader, epochs=8)


if __name__ == "__main__":
    main()
