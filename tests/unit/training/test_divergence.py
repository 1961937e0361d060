"""A training that diverges ends at once, and its checkpoints stay whole."""

import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel, RandomDataset
from pytorch_lightning.plugins import MixedPrecision

from hardneg_plugin.divergence import DivergedError, not_finite
from hardneg_plugin.training.best_checkpoint import BestCheckpoint
from hardneg_plugin.training.callbacks import LastCheckpoint
from hardneg_plugin.training.divergence import StopDiverged

STEPS = 6
"""Of an epoch."""


class Studies(RandomDataset):
    def __init__(self):
        super().__init__(32, STEPS)

    def __getitem__(self, index):
        return {"ids": f"study {index}", "images": self.data[index]}


class Host(BoringModel):
    """At the given batches, counted from 0 over all epochs, the loss and its gradient are not finite, or one of them."""

    def __init__(self, loss_at=(), gradient_at=(), constant_at=(), optimizes=True):
        super().__init__()
        self.loss_at, self.gradient_at, self.constant_at = loss_at, gradient_at, constant_at
        self.automatic_optimization = optimizes
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.batches = 0

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch["images"]).square().mean()
        if self.batches in self.loss_at:
            loss = loss * math.nan
        if self.batches in self.gradient_at:
            zero = (self.layer.weight * 0).sum()
            loss = loss + zero.sqrt()  # is 0, with a gradient of infinity times 0
        if self.batches in self.constant_at:
            loss = loss + math.inf  # with the gradient of before
        self.batches += 1
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch["images"]).square().mean())

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Studies())

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(folder, host, patience=3, epochs=2, ckpt_path=None, **options):
    last = LastCheckpoint(folder / "last.ckpt", options.pop("every_n_train_steps", None))
    best = BestCheckpoint(dirpath=folder, filename="best", monitor="val/loss", mode="min", enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StopDiverged(patience), best, last],
        **options,
    )
    trainer.fit(host, ckpt_path=ckpt_path)
    return trainer


def steps_of(folder):
    """The step of each checkpoint, all of which are whole."""
    found = {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.ckpt")}
    for content in found.values():
        assert not_finite(content["state_dict"]) == ["mask"]
        assert not_finite(content["optimizer_states"]) == []
    return {name: content["global_step"] for name, content in found.items()}


@pytest.mark.parametrize("optimizes", [True, False], ids=["automatic", "manual"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_it_ends_at_the_third_step_and_names_the_first(tmp_path, what, optimizes):
    host = Host(**{f"{what}_at": range(8, 99)}, optimizes=optimizes)
    with pytest.raises(DivergedError) as caught:
        fit(tmp_path, host)
    said = "the loss" if what == "loss" else "the gradient (the loss was)"
    assert str(caught.value) == (
        f"Training diverged: {said} was not finite in 3 steps in a row, the first of them step 9 in epoch 2, with the study study "
        "2."
    )
    assert host.batches == 11
    assert steps_of(tmp_path) == {"best": 6, "last": 6}


def test_weights_that_are_not_finite_are_neither_validated_nor_written(tmp_path):
    """One such step spoils the weights, and the epoch ends before the third."""
    host = Host(gradient_at=[10])
    with pytest.raises(DivergedError) as caught:
        fit(tmp_path, host)
    assert str(caught.value) == (
        "Training diverged: after step 12 in epoch 2 layer.weight and 1 more are not finite; the gradient (the loss was) was not "
        "finite in 2 steps in a row, the first of them step 11 in epoch 2, with the study study 4."
    )
    assert steps_of(tmp_path) == {"best": 6, "last": 6}


def test_a_checkpoint_within_an_epoch_is_not_replaced_either(tmp_path):
    with pytest.raises(DivergedError, match=r"after step 9 in epoch 2 layer\.weight"):
        fit(tmp_path, Host(loss_at=[8]), every_n_train_steps=1)
    assert steps_of(tmp_path) == {"best": 6, "last": 8}


def test_a_loss_that_is_not_finite_now_and_then_does_not_end_a_training_whose_weights_stay_whole(tmp_path):
    host = Host(constant_at=[1, 2, 4, 5, 8])
    fit(tmp_path, host)
    assert host.batches == 12
    assert steps_of(tmp_path)["last"] == 12
    with pytest.raises(DivergedError, match="the loss was not finite in 3 steps in a row, the first of them step 3 "):
        fit(tmp_path / "other", Host(constant_at=[2, 3, 4]))
    assert steps_of(tmp_path / "other") == {}


def test_steps_that_a_scaler_skips_do_not_count_until_its_scale_is_below_one(tmp_path):
    def scaled(scale):
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    host = Host(gradient_at=range(6))
    fit(tmp_path, host, plugins=[scaled(2.0**10)])  # six skipped steps, down to 2 ** 4
    assert host.batches == 12
    host = Host(gradient_at=range(99))
    with pytest.raises(DivergedError, match="the gradient"):
        fit(tmp_path, host, epochs=9, plugins=[scaled(2.0**10)])
    # the scale is below 1 after 11 of them
    assert host.batches == 13
    host = Host(loss_at=range(99))
    with pytest.raises(DivergedError, match="the loss"):
        fit(tmp_path, host, epochs=9, plugins=[scaled(2.0**10)])
    assert host.batches == 3


def test_ids_of_studies_may_have_another_name_or_none(tmp_path):
    for callback, named in (
        (StopDiverged(1, ids="images"), ", with the study"),
        (StopDiverged(1, ids="id"), " epoch 1."),
    ):
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[callback],
        )
        with pytest.raises(DivergedError) as caught:
            trainer.fit(Host(loss_at=[0]))
        assert named in str(caught.value)


def test_accumulated_batches_are_one_step(tmp_path):
    host = Host(loss_at=range(7, 99))
    with pytest.raises(DivergedError, match="first of them step 4 in epoch 2, with the studies study 0, study 1"):
        fit(tmp_path, host, epochs=3, accumulate_grad_batches=2)
    assert host.batches == 12


def test_a_training_that_is_fine_is_the_same_with_and_without(tmp_path):
    weights = []
    for callbacks in ([], [StopDiverged()]):
        pl.seed_everything(1, verbose=False)
        host = Host()
        pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            gradient_clip_val=0.1,
            callbacks=callbacks,
        ).fit(host)
        weights.append(host.layer.weight.detach())
    assert torch.equal(*weights)
