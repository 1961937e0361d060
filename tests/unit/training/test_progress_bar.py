"""What a training prints in a log: a line an epoch, and a line a minute within it."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hardneg_plugin.training import progress_bar
from hardneg_plugin.training.progress_bar import TrainingBar


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        self.log("loss", torch.tensor(2.0), prog_bar=True)
        self.log("train/hidden", 1.0)
        return (self.weight * batch).sum()

    def validation_step(self, batch, index):
        self.log("val/BLEU-4", torch.tensor(0.25), prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(refresh_rate=1):
    loader = DataLoader(torch.ones(6, 1))
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[TrainingBar(refresh_rate)],
    )
    trainer.fit(Line(), loader, loader)


def test_a_line_an_epoch(capsys):
    fit()
    lines = [line.split(": ") for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line[0].split(",")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert [line[1] for line in lines] == ["loss 2.000, val BLEU-4 0.250"] * 2


def test_a_line_a_minute(monkeypatch, capsys):
    seconds = iter(range(0, 100_000, 25))
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if ": batch" in line]
    # the clock is read at each batch, so a minute is over at every third
    assert [line for line in lines if line.startswith("epoch 2")] == [
        "epoch 2 of 2: batch 2 of 6, loss 2.000",
        "epoch 2 of 2: batch 5 of 6, loss 2.000",
    ]
    assert "validation: batch 4 of 6" in lines


def test_work_at_the_end_of_an_epoch_has_its_lines(monkeypatch, capsys):
    seconds = iter(range(0, 100_000, 25))
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    bar = TrainingBar()
    assert list(bar.track([7, 8, 9, 10], "ranking")) == [7, 8, 9, 10]
    assert capsys.readouterr().out.splitlines() == ["ranking: batch 4 of 4"]
    assert list(TrainingBar(0).track([7], "ranking")) == [7]
    assert not capsys.readouterr().out


def test_a_rate_of_0_shows_nothing(capsys):
    fit(refresh_rate=0)
    assert "epoch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scores", "told"),
    [({}, ""), ({"val/report_loss": 1.0, "val/R@5": 0.5, "loss": 2.0}, "val report_loss 1.000, R@5 0.500, loss 2.000")],
)
def test_scores_name_their_split_once(scores, told):
    assert progress_bar._in_words(scores) == told
