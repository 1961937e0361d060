"""The mixin around a LightningModule that knows nothing of it."""

import inspect
import logging
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import Bank, Hinge, InfoNCE, Weights
from hardneg_plugin.objectives.schedule import Constant, Exponential, Linear
from hardneg_plugin.plugin import mixin

sys.path.append(str(Path(__file__).parents[1]))
from forked_ranks import on_ranks


class Host(pl.LightningModule):
    """A foreign module: two encoders, one loss, its own hyperparameters and optimizer."""

    def __init__(self, width=8, returns="mapping", manual=False, all_parameters=True):
        super().__init__()
        self.save_hyperparameters()
        self.hparams: Any
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
    return HardNegativeObjective(**{"schedule": Constant(hardness=0.5), "separation": Hinge(margin=0.0), **options})


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


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Exponential(rate=0.3), [1 - math.exp(-0.3 * (1 + step // 6)) for step in range(18)]),
        (Linear(unit="step", end=18), [0.9 * step / 18 for step in range(18)]),
        (Linear(unit="fraction"), [0.9 * step / 18 for step in range(18)]),
    ],
    ids=["epoch", "step", "fraction"],
)
def test_the_schedule_follows_the_training(tmp_path, schedule, expected):
    hardness = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            hardness.append(trainer.callback_metrics["train/hardness"].item())

    model = Plugged(hard_negatives=objective(schedule=schedule))
    trainer(tmp_path, max_epochs=3, callbacks=[Recorder()]).fit(model, loader())
    assert hardness == pytest.approx(expected)


def test_a_bank_finds_its_neighbours_anew_in_each_epoch(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "hardneg_plugin"):
        trainer(tmp_path, max_epochs=3).fit(Plugged(hard_negatives=objective(negatives=Bank())), loader())
    searches = [record.getMessage() for record in caplog.records if "neighbours" in record.getMessage()]
    assert searches == ["Found the neighbours of 24 studies by the embeddings in the bank."] * 2


def test_a_study_that_is_not_finite_is_counted_and_warned_of_once(tmp_path):
    """And leaves what a bank, the heads and the model hold finite: the host's own loss does not see its report feature."""

    class Overflowing(Plugged):
        def embed(self, batch, outputs):
            pairs = super().embed(batch, outputs)
            is_bad = torch.tensor([name == "study 5" for name in batch["id"]])
            return replace(
                pairs, reports=pairs.reports.masked_fill(is_bad[:, None], torch.inf), match_keys=pairs.match_keys
            )

    shares = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            shares.append(trainer.callback_metrics["train/non_finite_share"].item())

    source = Bank()
    model = Overflowing(hard_negatives=objective(negatives=source, image_width=8, report_width=8, width=4))
    with pytest.warns(UserWarning, match=r"4\.2% of the latest studies had image or report features") as seen:
        trainer(tmp_path, callbacks=[Recorder()]).fit(model, loader())
    assert sum("latest studies" in str(warning.message) for warning in seen) == 1
    assert shares == ([0.0, 0.25] + [0.0] * 4) * 2
    assert len(source.bank) == 23
    assert all(column.isfinite().all() for column in source.bank.entries())
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])


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


def test_hyperparameters_hold_the_arguments_of_a_subclass_and_what_the_host_made_of_its_own():
    class Doubles(Host):
        def __init__(self, width=8):
            width = 2 * width
            super().__init__(width=width)

    class Extra(HardNegativeMixin, Doubles):
        embed = Plugged.embed

        def __init__(self, extra, **arguments):
            super().__init__(**arguments)
            self.extra = extra

    class ExtraBelow(HardNegativeMixin, Doubles):
        embed = Plugged.embed

    class ExtraAbove(ExtraBelow):
        def __init__(self, extra, **arguments):
            super().__init__(**arguments)
            self.extra = extra

    class NoExtra(HardNegativeMixin, Doubles):
        embed = Plugged.embed

    assert NoExtra(width=8).hparams == Doubles(width=8).hparams
    assert NoExtra(8, hard_negatives=objective()).hparams["width"] == 16
    for kind in (Extra, ExtraAbove):
        model = kind(extra=5, hard_negatives=objective())
        assert model.hparams["extra"] == 5
        assert "hard_negatives" not in model.hparams


def test_lightning_sees_the_signatures_of_the_host():
    class OnlyBatch(Host):
        def training_step(self, studies):
            return super().training_step(studies, 0)

    class Plugged(HardNegativeMixin, OnlyBatch):
        pass

    class Own(HardNegativeMixin, Host):
        def training_step(self, batch, batch_idx, dataloader_idx=0):
            return super().training_step(batch, batch_idx)

    def names(function):
        return [*inspect.signature(function).parameters], inspect.getfullargspec(function).args

    assert names(Plugged.training_step) == (["self", "studies"], ["self", "studies"])
    assert names(Own.training_step) == (["self", "batch", "batch_idx", "dataloader_idx"],) * 2
    assert [*inspect.signature(Plugged.__init__).parameters] == [
        *inspect.signature(Host.__init__).parameters,
        "hard_negatives",
        "chunks",
    ]
    # those of the host and of the mixin stay as they were
    assert names(OnlyBatch.training_step)[0] == ["self", "studies"]
    assert names(HardNegativeMixin.training_step)[0] == ["self", "args", "kwargs"]


def test_a_step_that_takes_only_the_batch(tmp_path):
    class OnlyBatch(Host):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    class Plugs(HardNegativeMixin, OnlyBatch):
        embed = Plugged.embed

    model, other = Plugs(hard_negatives=objective()), Plugged(hard_negatives=objective())
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        trainer(tmp_path).fit(one, loader())
    assert torch.equal(torch.stack(model.seen), torch.stack(other.seen))


def test_what_is_logged_is_averaged_over_ranks_in_one_call(tmp_path, monkeypatch):
    calls = []

    def double(values):
        calls.append(values)
        return 2 * values

    monkeypatch.setattr("hardneg_plugin.plugin.mixin.mean_over_ranks", double)
    model = Plugged(hard_negatives=objective())
    fit = trainer(tmp_path, max_steps=3)
    fit.fit(model, loader())
    assert len(calls) == 3
    assert not any(values.requires_grad for values in calls)
    assert fit.callback_metrics["train/report_loss"] == 2 * model.seen[-1]
    assert fit.callback_metrics["train/hardness"] == 2 * 0.5
    assert len([name for name in fit.callback_metrics if name.startswith("train/")]) == len(calls[-1])


class ManualHost(Host):
    """Optimises manually."""

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        loss = self.with_hard_negatives(outputs["loss"], batch, outputs)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


class Manual(HardNegativeMixin, ManualHost):
    embed = Plugged.embed


class Written(pl.loggers.logger.DummyLogger):
    """What Lightning writes, by step."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step):
        if "train/report_loss" in metrics:
            self.rows[step] = float(metrics["train/report_loss"])


@pytest.mark.parametrize(
    ("options", "manual", "averaged"),
    [
        ({"log_every_n_steps": 4}, False, [*range(10), 11, 14, 15, 19, 23, 27, 29]),
        ({"log_every_n_steps": 50}, False, [*range(10), 14, 29]),
        # by optimizer steps; Lightning writes with each micro-batch of a step
        ({"log_every_n_steps": 4, "accumulate_grad_batches": 3}, False, [*range(10), 10, 11, 14, 21, 22, 23, 29]),
        ({"log_every_n_steps": 4}, True, [*range(30)]),
    ],
    ids=["every fourth", "epoch ends", "accumulated", "manual"],
)
def test_ranks_average_what_is_logged_where_it_is_read(tmp_path, monkeypatch, options, manual, averaged):
    def fit(rank):
        monkeypatch.setenv("LOCAL_RANK", str(rank))  # Lightning then starts no processes
        calls, means = [], mixin.mean_over_ranks
        monkeypatch.setattr(mixin, "mean_over_ranks", lambda values: calls.append(len(model.seen) - 1) or means(values))
        torch.manual_seed(0)
        model = (Manual if manual else Plugged)(manual=manual, hard_negatives=objective())
        written = Written()
        fitted = trainer(tmp_path, logger=written, strategy="ddp", devices=2, **options)
        fitted.fit(model, loader(30))
        return (
            [float(loss) for loss in model.seen],
            written.rows,
            calls,
            float(fitted.callback_metrics["train/report_loss"]),
        )

    (ours, rows, calls, last), (theirs, others, their_calls, their_last) = on_ranks(fit)
    assert calls == their_calls == averaged
    mean = [(one + other) / 2 for one, other in zip(ours, theirs, strict=True)]
    assert last == their_last == pytest.approx(mean[-1])
    assert rows == others
    batches = options.get("accumulate_grad_batches", 1)
    assert len(rows) == 30 // batches // options["log_every_n_steps"]
    for step, value in rows.items():
        assert value in [pytest.approx(mean[step * batches + batch]) for batch in range(batches)], step


def test_without_an_objective_there_is_a_default_one():
    model = Plugged()
    assert isinstance(model.hard_negatives, HardNegativeObjective)
    assert model.hard_negatives is not Plugged().hard_negatives


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
    bare = Host.load_from_checkpoint(tmp_path / "model.ckpt")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in bare.state_dict().items())


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


@pytest.mark.parametrize(("ignore", "left"), [("width", {"depth"}), (["width"], {"depth"}), (None, {"width", "depth"})])
def test_a_host_may_leave_out_hyperparameters_of_its_own(ignore, left):
    class Ignores(pl.LightningModule):
        def __init__(self, width=8, depth=2):
            super().__init__()
            self.save_hyperparameters(ignore=ignore)

    class Mixed(HardNegativeMixin, Ignores):
        pass

    model = Mixed(hard_negatives=objective())
    assert set(model.hparams) == left
    model.on_train_epoch_end()  # before any training there is nothing to tell


def test_a_host_may_name_the_frame_whose_arguments_count():
    class ByHelper(pl.LightningModule):
        def __init__(self, width=8):
            super().__init__()
            self.keep(inspect.currentframe())

        def keep(self, frame):
            self.save_hyperparameters(frame=frame)

    class Mixed(HardNegativeMixin, ByHelper):
        pass

    assert dict(Mixed(width=16, hard_negatives=objective()).hparams) == {"width": 16}


def test_reports_and_edited_ones_are_read_by_the_hosts_methods():
    class Reads(Host):
        def token_losses(self, *arguments):
            return "as they are", arguments

        def edited_token_losses(self, *arguments):
            return "edited", arguments

    class ReadsToo(HardNegativeMixin, Reads):
        pass

    model = ReadsToo(hard_negatives=objective())
    assert model._read_reports("batch", "outputs", 1, 2) == ("as they are", ("batch", "outputs", 1, 2))
    assert model._read_reports("batch", "outputs", changes=3) == ("edited", ("batch", "outputs", 3))
    bare = Plugged(hard_negatives=objective())
    with pytest.raises(UserError, match="let Plugged define token_losses"):
        bare.token_losses("batch", "outputs")
    with pytest.raises(UserError, match="let Plugged define edited_token_losses"):
        bare.edited_token_losses("batch", "outputs", 1)
