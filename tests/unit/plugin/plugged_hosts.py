"""Small hosts that know nothing of hard negatives."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class Captioner(pl.LightningModule):
    """A foreign module with dropout: an encoder over 5 patches, a decoder over 6 words, a loss of its own."""

    def __init__(self, width=8, dropout=0.2):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(4, width), nn.Dropout(dropout), nn.Linear(width, width))
        self.decoder = nn.ModuleDict({"words": nn.Embedding(9, width), "norm": nn.LayerNorm(width)})
        self.seen = []

    def loss(self, batch):
        patches = self.encoder(batch["images"])
        states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        return (patches.mean(1) - states.mean(1)).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.seen.append(loss.detach().clone())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.01)


PLACES = {
    "images": "encoder",
    "reports": "decoder.norm",
    "report_mask": "batch.mask",
    "study_ids": "batch.id",
    "texts": "batch.tokens",
}


def loader(studies=16, batch_size=4):
    random = torch.Generator().manual_seed(0)
    return DataLoader(
        [
            {
                "id": f"study {i}",
                "images": torch.randn(5, 4, generator=random),
                "tokens": torch.randint(9, (6,), generator=random),
                "mask": torch.arange(6) < 3 + i % 3,
            }
            for i in range(studies)
        ],
        batch_size=batch_size,
    )


def trainer(folder, **options):
    defaults = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        **{**defaults, "enable_model_summary": False, "accelerator": "cpu", **options}, default_root_dir=folder
    )
