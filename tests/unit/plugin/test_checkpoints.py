"""Checkpoints of plugged models: back into the bare host, into the plugged class, and on with training."""

import copy
import logging
import pickle
import sys
import warnings
from multiprocessing.context import set_spawning_popen
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from hardneg_plugin import Feature, HardNegativeMixin, HardNegativeObjective, PairEmbeddings, host_state_dict, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives.schedule import Constant

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer


def objective():
    return HardNegativeObjective(schedule=Constant(hardness=0.5), image_width=8, report_width=8, width=4)


class InCode(HardNegativeMixin, Captioner):
    def embed(self, batch, outputs):
        states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        return PairEmbeddings(
            images=self.encoder(batch["images"]).mean(1), reports=states.mean(1), study_ids=batch["id"]
        )


def make(kind):
    pl.seed_everything(3, verbose=False)
    if kind == "instance":
        return plug_in(Captioner(), objective(), **PLACES)
    return plug_in(Captioner, objective(), **PLACES)() if kind == "class" else InCode(hard_negatives=objective())


def arguments(kind):
    return {"hard_negatives": objective()} if kind == "code" else {}


def saved(model, path):
    """The path of a checkpoint of the model, trained for an epoch."""
    run = trainer(path.parent, max_epochs=1)
    run.fit(model, loader())
    run.save_checkpoint(path)
    return path


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("kind", ["instance", "class", "code"])
@pytest.mark.parametrize("old", [False, True], ids=["beside", "inside"])
def test_a_checkpoint_loads_into_the_plugged_class_and_into_the_bare_host(tmp_path, kind, old):
    model = make(kind)
    path = saved(model, tmp_path / "model.ckpt")
    checkpoint = torch.load(path)
    assert checkpoint["state_dict"].keys() == Captioner().state_dict().keys()
    assert equal(checkpoint["hard_negatives"], model.hard_negatives.state_dict())
    bare = Captioner.load_from_checkpoint(path)
    assert equal(bare.state_dict(), {name: model.state_dict()[name] for name in bare.state_dict()})
    if old:  # as written when the objective's weights were still in the state dict
        inside = {f"hard_negatives.{name}": value for name, value in checkpoint.pop("hard_negatives").items()}
        checkpoint["state_dict"].update(inside)
        torch.save(checkpoint, path)
    again = type(model).load_from_checkpoint(path, **arguments(kind))
    assert type(again) is type(model)
    assert equal(again.state_dict(), model.state_dict())
    assert not torch.equal(again.hard_negatives.image_head.weight, make(kind).hard_negatives.image_head.weight)


@pytest.mark.parametrize("kind", ["instance", "class", "code"])
def test_a_bare_hosts_checkpoint_starts_the_objective_afresh(tmp_path, kind):
    bare = Captioner()
    path = saved(bare, tmp_path / "bare.ckpt")
    with pytest.warns(UserWarning, match="holds no hard-negative objective.*starts afresh"):
        model = type(make(kind)).load_from_checkpoint(path, **arguments(kind))
    assert equal(bare.state_dict(), {name: model.state_dict()[name] for name in bare.state_dict()})
    trainer(tmp_path, max_epochs=1).fit(model, loader())


def test_a_class_in_code_says_that_its_objective_has_to_be_passed(tmp_path):
    path = saved(make("code"), tmp_path / "model.ckpt")
    message = r"weights .*image_head\.weight.*default one of InCode: pass.*InCode\.load_from_checkpoint\(path, hard_negatives="
    with pytest.raises(UserError, match=message):
        InCode.load_from_checkpoint(path)
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, max_epochs=2).fit(InCode(), loader(), ckpt_path=path)
    # an objective that was passed is the user's choice: torch says what does not fit
    with pytest.raises(RuntimeError, match=r"Unexpected key.*image_head"):
        InCode.load_from_checkpoint(path, hard_negatives=HardNegativeObjective())
    # weights that fit do not say that the settings do
    other = InCode(hard_negatives=HardNegativeObjective(schedule=Constant(hardness=0.5), hardening=None))
    path = saved(other, tmp_path / "other.ckpt")
    message = r"objective has hardening=None instead of Arc\(.*\), schedule=Constant.* instead of Linear.*default one of InCode"
    with pytest.warns(UserWarning, match=message):
        InCode.load_from_checkpoint(path)
    # of the default one's weights, the checkpoint is enough
    default = InCode()
    path = saved(default, tmp_path / "default.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = InCode.load_from_checkpoint(path)
    assert equal(again.state_dict(), default.state_dict())


@pytest.mark.parametrize("kind", ["instance", "class", "code"])
def test_the_state_dict_of_the_host_loads_into_the_bare_class(kind):
    model = make(kind)
    assert model.state_dict().keys() > Captioner().state_dict().keys()
    for wrapped in (model, torch.compile(model, backend="eager")):
        bare = Captioner()
        bare.load_state_dict(host_state_dict(wrapped))
        assert equal(bare.state_dict(), host_state_dict(model))
    assert equal(host_state_dict(bare), bare.state_dict())


def test_a_loaded_or_copied_model_trains_itself_and_not_the_one_before(tmp_path):
    def images(host, batch, outputs):
        return host.encoder(batch["images"])

    model = plug_in(Captioner(dropout=0.0), objective(), **{**PLACES, "images": images})
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    before = copy.deepcopy(model.state_dict())
    for again in (type(model).load_from_checkpoint(tmp_path / "model.ckpt"), copy.deepcopy(model)):
        model.zero_grad()
        trainer(tmp_path, max_steps=1).fit(again, loader())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert equal(model.state_dict(), before)
        assert not torch.equal(again.encoder[0].weight, model.encoder[0].weight)


def mask_of(batch, outputs):
    return batch["mask"]


def test_a_lambda_is_told_before_processes_are_spawned(tmp_path):
    for name, place in (
        ("report_mask", lambda batch, outputs: batch["mask"]),
        ("reports", Feature("decoder.norm", mask=lambda batch, outputs: batch["mask"])),
        ("chunks", lambda batch: [batch]),
    ):
        given = {**PLACES, name: place}
        if name == "reports":
            del given["report_mask"]
        model = plug_in(Captioner(), objective(), **given)
        message = rf"^{name}\S*: this callable cannot be sent to a spawned process \(Can't.*def at the top of a module"
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, strategy="ddp_spawn", devices=2).fit(model, loader())
    set_spawning_popen(object())  # as while a process is being spawned
    try:
        plugged = plug_in(Captioner(), objective(), **{**PLACES, "report_mask": mask_of})
        pickle.dumps(plugged)
    finally:
        set_spawning_popen(None)


def test_half_an_objective_is_still_an_error(tmp_path):
    model = make("class")
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt")
    del checkpoint["hard_negatives"]["log_scales"]
    torch.save(checkpoint, tmp_path / "model.ckpt")
    with pytest.raises(RuntimeError, match=r"Missing key.*hard_negatives\.log_scales"):
        type(model).load_from_checkpoint(tmp_path / "model.ckpt")


def test_the_hosts_own_hooks_see_the_hosts_own_state(tmp_path):
    seen = []

    class Looks(Captioner):
        def on_save_checkpoint(self, checkpoint):
            seen.append(set(checkpoint["state_dict"]))
            checkpoint["mine"] = 5

        def on_load_checkpoint(self, checkpoint):
            assert checkpoint["mine"] == 5
            seen.append(set(checkpoint["state_dict"]))

    model = plug_in(Looks(), objective(), **PLACES)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    type(model).load_from_checkpoint(tmp_path / "model.ckpt")
    assert seen == [set(Captioner().state_dict())] * 2


class TakesAConfig(Captioner):
    """A host with one argument, whose entries are its hyperparameters."""

    def __init__(self, config):
        super().__init__(width=config["width"])
        self._hparams = None
        self.save_hyperparameters(config)
        self.save_hyperparameters({"note": "not an argument"})


def test_hyperparameters_that_are_no_arguments_are_left_out_as_for_the_host(tmp_path):
    class Plugged(HardNegativeMixin, TakesAConfig):
        embed = InCode.embed

    config = {"width": 8, "rate": 0.1}
    for model in (
        plug_in(TakesAConfig(config), objective(), **PLACES),
        plug_in(TakesAConfig, objective(), **PLACES)(config),
        Plugged(config, hard_negatives=objective()),
    ):
        run = trainer(tmp_path, max_steps=1)
        run.fit(model, loader())
        run.save_checkpoint(tmp_path / "model.ckpt")
        checkpoint = torch.load(tmp_path / "model.ckpt")
        assert checkpoint["hyper_parameters"] == dict(TakesAConfig(config).hparams)
        given = {"hard_negatives": objective(), "config": config}
        assert equal(
            type(model).load_from_checkpoint(tmp_path / "model.ckpt", **given).state_dict(), model.state_dict()
        )


def state(model, run):
    """All that training goes on from, flat."""
    flat = dict(model.state_dict())
    for number, entry in run.optimizers[0].state_dict()["state"].items():
        flat.update({f"{number} {key}": torch.as_tensor(value) for key, value in entry.items()})
    groups = run.optimizers[0].state_dict()["param_groups"]
    flat.update({f"lr {i}": torch.tensor(group["lr"]) for i, group in enumerate(groups)})
    return flat


class Adam(Captioner):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


@pytest.mark.parametrize("averaged", [False, True], ids=["plain", "averaged"])
def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path, averaged):
    def run(epochs, resume=None):
        pl.seed_everything(3, verbose=False)
        ema = EMAWeightAveraging(decay=0.9)
        fitted = trainer(tmp_path, max_epochs=epochs, callbacks=[ema] if averaged else [])
        model = plug_in(Adam(dropout=0.0), objective(), **PLACES)
        fitted.fit(model, loader(), ckpt_path=resume)
        return model, fitted, ema

    class SaveBeforeTheEnd(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    model, fitted, ema = run(3)
    pl.seed_everything(3, verbose=False)
    broken = plug_in(Adam(dropout=0.0), objective(), **PLACES)
    callbacks = [SaveBeforeTheEnd(), *([EMAWeightAveraging(decay=0.9)] if averaged else [])]
    trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(broken, loader())
    checkpoint = torch.load(tmp_path / "half.ckpt")
    if averaged:
        current = checkpoint["current_model_state"]
        assert current.keys() == broken.state_dict().keys()
        assert not torch.equal(current["hard_negatives.log_scales"], checkpoint["hard_negatives"]["log_scales"])
    resumed, again, ema_again = run(3, tmp_path / "half.ckpt")
    assert again.global_step == fitted.global_step == 12
    assert equal(state(resumed, again), state(model, fitted))
    if averaged:
        assert equal(ema_again._average_model.state_dict(), ema._average_model.state_dict())


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
