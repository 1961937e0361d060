"""Hosts that optimise manually and add the terms of the objective within their own step."""

import sys
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings, plug_in
from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.errors import UserError
from hardneg_plugin.grounding import Grounding, Learned
from hardneg_plugin.objectives import GroundedKnowledgeObjective, Weights
from hardneg_plugin.objectives.schedule import Constant, Linear, TrainingProgress

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer


def objective(**options):
    return HardNegativeObjective(**{"schedule": Constant(hardness=0.5), "weights": Weights(0.7, 0.2, 0.1), **options})


class Adversarial(Captioner):
    """A generator and a critic of its features, with an optimizer each, as a GAN has them."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.critic = torch.nn.Linear(8, 1)
        self.automatic_optimization = False
        self.totals = []

    def training_step(self, batch, batch_idx):
        generates, criticises = self.optimizers()
        loss = self.loss(batch)
        self.seen.append(loss.detach().clone())
        total = self.with_hard_negatives(loss, batch, {"kept": 5})
        self.totals.append(total.detach().clone())
        generates.zero_grad()
        self.manual_backward(total)
        generates.step()
        criticises.zero_grad()
        self.manual_backward(self.critic(self.encoder(batch["images"]).detach()).mean())
        criticises.step()

    def configure_optimizers(self):
        own = [p for name, p in self.named_parameters() if not name.startswith("critic")]
        return torch.optim.SGD(own, lr=0.1), torch.optim.SGD(self.critic.parameters(), lr=0.1)


class InCode(HardNegativeMixin, Adversarial):
    def embed(self, batch, outputs):
        assert outputs == {"kept": 5}
        states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        mask = batch["mask"][:, :, None]
        return PairEmbeddings(
            images=self.encoder(batch["images"]).mean(1),
            reports=(states * mask).sum(1) / mask.sum(1),
            study_ids=batch["id"],
            texts=batch["tokens"],
        )


class OverridesTheStep(HardNegativeMixin, Captioner):
    embed = InCode.embed
    __init__, configure_optimizers = Adversarial.__init__, Adversarial.configure_optimizers


def by_hand(steps):
    """What the first steps train: the losses and the weights of a loop that is written out."""
    pl.seed_everything(3, verbose=False)
    model, own = Adversarial(), objective()
    optimizers = [torch.optim.SGD([*list(model.parameters())[:-2], *own.parameters()], lr=0.1)]
    optimizers.append(torch.optim.SGD(model.critic.parameters(), lr=0.1))
    totals = []
    for batch in list(loader())[:steps]:
        terms = own(InCode.embed(model, batch, {"kept": 5}), TrainingProgress(step=0, epoch=0, fraction=0.0))
        total = 0.7 * model.loss(batch) + 0.2 * terms.alignment_loss + 0.1 * terms.separation_loss
        totals.append(total.item())
        optimizers[0].zero_grad()
        total.backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        model.critic(model.encoder(batch["images"]).detach()).mean().backward()
        optimizers[1].step()
    return totals, model, own


@pytest.mark.parametrize("kind", ["plug_in", "class", "mixin"])
def test_the_terms_are_added_where_the_step_asks_for_them(tmp_path, kind):
    expected, bare, own = by_hand(4)
    pl.seed_everything(3, verbose=False)
    if kind == "plug_in":
        model = plug_in(Adversarial(), objective(), **PLACES)
    else:
        model = plug_in(Adversarial, objective(), **PLACES)() if kind == "class" else InCode(hard_negatives=objective())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, loader())
    assert torch.stack(model.totals).tolist() == pytest.approx(expected, rel=1e-5)
    assert all(torch.allclose(value, model.state_dict()[name], atol=1e-6) for name, value in bare.state_dict().items())
    assert torch.allclose(model.hard_negatives.log_scales, own.log_scales, atol=1e-6)
    assert run.callback_metrics["train/report_loss"] == model.seen[-1]
    assert run.callback_metrics["train/alignment_loss"] > 0
    if kind != "mixin":
        assert not model._calls


def test_a_step_that_asks_for_no_terms_gets_none(tmp_path):
    class EverySecond(Adversarial):
        def training_step(self, batch, batch_idx):
            if batch_idx % 2:
                return self.loss(batch)
            return super().training_step(batch, batch_idx)

    model, asked = plug_in(EverySecond(), objective(), **PLACES), []
    model.hard_negatives.register_forward_hook(lambda *_: asked.append(1))
    trainer(tmp_path, max_epochs=1).fit(model, loader())
    assert len(asked) == 2


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_statements_are_read_where_the_objective_has_texts_of_them(tmp_path, weight):
    knowledge = PhantomKnowledge()
    count = len(knowledge.prompts)
    own = GroundedKnowledgeObjective(
        image_width=8,
        report_width=8,
        width=6,
        heads=2,
        knowledge=knowledge,
        grounding=partial(Grounding, width=4, heads=2, regions=partial(Learned, count=3)),
        statement_weight=weight,
    )
    read = []

    def statements(batch, outputs):
        read.append(outputs)
        return torch.ones(2, count, 8)

    places = {
        **PLACES,
        "facts": lambda batch, outputs: torch.ones(4, count, dtype=torch.int64),
        "statements": statements,
    }
    run = trainer(tmp_path, max_epochs=1)
    run.fit(plug_in(Adversarial(), own, **places), loader())
    assert read == [{"kept": 5}] * 4 * bool(weight)
    assert ("train/statement_loss" in run.callback_metrics) == bool(weight)


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_steps": 16}, {"max_epochs": 2, "max_steps": 16}])
def test_hardness_grows_by_batches_however_many_optimizers_step(tmp_path, limits):
    hardness = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            hardness.append(trainer.callback_metrics["train/hardness"].item())

    schedule = Linear()
    model = plug_in(Adversarial(), objective(schedule=schedule), **PLACES)
    trainer(tmp_path, callbacks=[Keep()], **limits).fit(model, loader())
    expected = [schedule(TrainingProgress(step=i, epoch=i // 4, fraction=i / 8)) for i in range(8)]
    assert hardness == pytest.approx(expected)


def test_a_step_of_the_subclass_may_add_them_to_what_it_returns(tmp_path):
    class Own(HardNegativeMixin, Captioner):
        def embed(self, batch, outputs):
            return InCode.embed(self, batch, {"kept": 5})

        def training_step(self, batch, batch_idx):
            self.total = self.with_hard_negatives(self.loss(batch), batch, None)
            return {"loss": self.total}

    class Host(Captioner):
        def training_step(self, batch, batch_idx):
            self.total = self.with_hard_negatives(self.loss(batch), batch, None)
            return self.total

    losses = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            losses.append(outputs["loss"].item())
            assert outputs["loss"] == pl_module.total

    for make in (
        lambda: Own(dropout=0.0, hard_negatives=objective()),
        lambda: plug_in(Host(dropout=0.0), objective(), **PLACES),
    ):
        pl.seed_everything(3, verbose=False)
        trainer(tmp_path, max_steps=1, callbacks=[Keep()]).fit(make(), loader())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_step_around_a_plugged_class_is_told_where_it_belongs(tmp_path):
    class Outside(plug_in(Captioner, objective(), **PLACES)):
        def training_step(self, batch, batch_idx):
            return self.with_hard_negatives(self.loss(batch), batch, None)

    with pytest.raises(
        UserError, match=r"while the training_step of Captioner runs, but.*a class of the host and plug in that"
    ):
        trainer(tmp_path).fit(Outside(), loader())

    class Callables(plug_in(Captioner, objective(), images=encoded, reports=decoded, study_ids="batch.id")):
        training_step = Outside.training_step

    run = trainer(tmp_path, max_steps=1)
    run.fit(Callables(), loader())
    assert run.callback_metrics["train/alignment_loss"] > 0


def encoded(host, batch, outputs):
    return host.encoder(batch["images"])


def decoded(host, batch, outputs):
    return host.decoder["norm"](host.decoder["words"](batch["tokens"]))


def test_a_step_that_adds_nothing_is_told_before_training(tmp_path):
    class Forgets(Captioner):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(UserError, match=r"optimises manually.*self\.with_hard_negatives\(loss, batch, outputs\)"):
        trainer(tmp_path).fit(plug_in(Forgets(), objective(), **PLACES), loader())
