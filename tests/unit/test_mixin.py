"""The mixin around a LightningModule that knows nothing of it."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import InfoNCE, Weights
from hardneg_plugin.schedule import Constant


class Host(pl.LightningModule):
    """A foreign module: two encoders, one loss, its own hyperparameters and optimizer."""

    def __init__(self, width=8, returns="mapping", manual=False, all_parameters=True):
        super().__init__()
        self.save_hyperparameters()
        self.image, self.report = nn.Linear(12, width), nn.Linear(10, width)
        self.automatic_optimization = not manual
        self.seen = []

    def training_step(self, batch, batch_idx):
        images, reports = self.image(batch["images"]), self.report(batch["reports"])
        loss = (images - reports).square().mean()
        self.seen.append(loss.detach().clone())
        if self.hparams.returns == "nothing":
            return None
        return loss if self.hparams.returns == "scalar" else {"loss": loss, "images": images, "reports": reports}

    def configure_optimizers(self):
        parameters = self.parameters() if self.hparams.all_parameters else [*self.image.parameters()]
        return torch.optim.SGD(parameters, lr=0.05)


class Plugged(HardNegativeMixin, Host):
    def embed(self, batch, outputs):
        if self.hparams.returns == "mapping":
            images, reports = outputs["images"], outputs["reports"]
        else:
            images, reports = self.image(batch["images"]), self.report(batch["reports"])
        return PairEmbeddings(images=images, reports=reports, study_ids=batch["id"])


def loader(batches=6):
    random = torch.Generator().manual_seed(0)
    studies = [
        {"id": f"study {i}", "images": torch.randn(12, generator=random), "reports": torch.randn(10, generator=random)}
        for i in range(4 * batches)
    ]
    return DataLoader(studies, batch_size=4)


def trainer(tmp_path, **options):
    arguments = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        **{**arguments, "enable_model_summary": False, "accelerator": "cpu", **options}, default_root_dir=tmp_path
    )


def objective(**options):
    return HardNegativeObjective(schedule=Constant(hardness=0.5), **options)


@pytest.mark.parametrize("returns", ["mapping", "scalar"])
def test_trains_logs_and_adds_weighted_terms(tmp_path, returns):
    model = Plugged(returns=returns, hard_negatives=objective(weights=Weights(0.7, 0.1, 0.2)))
    totals = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            logged = trainer.callback_metrics
            totals.append(
                (
                    outputs["loss"].item(),
                    0.7 * logged["train/report_loss"].item()
                    + 0.1 * logged["train/alignment_loss"].item()
                    + 0.2 * logged["train/separation_loss"].item(),
                )
            )

    fit = trainer(tmp_path, callbacks=[Recorder()])
    fit.fit(model, loader())
    assert len(totals) == 12
    assert all(total == pytest.approx(parts, rel=1e-5) for total, parts in totals)
    assert {
        "train/report_loss",
        "train/alignment_loss",
        "train/separation_loss",
        "train/hardness",
        "train/positive_similarity",
        "train/negative_similarity",
        "train/hardened_similarity",
        "train/false_negative_share",
    } <= fit.callback_metrics.keys()


def test_training_lowers_the_alignment_loss(tmp_path):
    model = Plugged(hard_negatives=objective(weights=Weights(0.0, 1.0, 0.0), alignment=InfoNCE(temperature=0.5)))
    losses = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            losses.append(trainer.callback_metrics["train/alignment_loss"].item())

    trainer(tmp_path, max_epochs=40, callbacks=[Recorder()]).fit(model, loader())
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


def test_the_host_loss_is_bit_identical_inside_the_wrapped_step(tmp_path):
    runs = []
    for make in (Host, lambda: Plugged(hard_negatives=objective(weights=Weights(1.0, 0.0, 0.0)))):
        pl.seed_everything(3, verbose=False)
        model = make()
        trainer(tmp_path).fit(model, loader())
        runs.append(torch.stack(model.seen))
    assert torch.equal(*runs)


def test_a_skipped_batch_stays_skipped(tmp_path):
    model = Plugged(returns="nothing", hard_negatives=objective())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(tmp_path, max_epochs=1).fit(model, loader())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_hyperparameters_hold_the_host_arguments_and_not_the_objective():
    model = Plugged(width=16, hard_negatives=objective())
    assert dict(model.hparams) == {"width": 16, "returns": "mapping", "manual": False, "all_parameters": True}


def test_checkpoint_round_trip_and_back_to_the_bare_host(tmp_path):
    model = Plugged(width=16, hard_negatives=objective(image_width=16, report_width=16, width=4))
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(model, loader())
    fit.save_checkpoint(tmp_path / "model.ckpt")
    again = Plugged.load_from_checkpoint(
        tmp_path / "model.ckpt", hard_negatives=objective(image_width=16, report_width=16, width=4)
    )
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    bare = {name: value for name, value in model.state_dict().items() if not name.startswith("hard_negatives.")}
    Host(width=16).load_state_dict(bare)


@pytest.mark.parametrize(
    ("options", "trainer_options", "message"),
    [
        ({"manual": True}, {}, "optimises manually.*automatic_optimization"),
        ({"all_parameters": False}, {}, r"No optimizer holds.*log_scales.*self\.parameters\(\)"),
        ({}, {"max_epochs": -1, "max_steps": -1}, "training has no end.*max_epochs"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_first_step(tmp_path, options, trainer_options, message):
    model = Plugged(**options, hard_negatives=HardNegativeObjective())
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, **trainer_options).fit(model, loader())
    assert not model.seen


def test_embed_must_be_defined(tmp_path):
    class Forgot(HardNegativeMixin, Host):
        pass

    with pytest.raises(NotImplementedError, match=r"Forgot must define embed"):
        trainer(tmp_path).fit(Forgot(hard_negatives=objective()), loader())


def test_gradient_accumulation_and_clipping_and_bf16(tmp_path):
    model = Plugged(hard_negatives=objective())
    fit = trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.5, precision="bf16-mixed")
    fit.fit(model, loader())
    assert fit.global_step == 6
    assert all(value.isfinite().all() for value in model.state_dict().values())
