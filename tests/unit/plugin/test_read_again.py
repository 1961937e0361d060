"""A foreign host's reports read with other images: against the host's own step on a batch whose images are swapped."""

import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.objectives import ByEmphasis, ByImage, ByText, EditMargin, LikelihoodMargin, Weights
from hardneg_plugin.objectives.schedule import Constant
from hardneg_plugin.plugin.read_again import answering, reordered

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer

ON = {"schedule": Constant(warmup=0.0)}


class Speaker(Captioner):
    """A host that predicts each word from the image and the word before; its encoder counts its calls."""

    def __init__(self, width=8, dropout=0.0):
        super().__init__(width, dropout)
        self.out = nn.Linear(width, 9)
        self.encoded = 0
        self.encoder[0].register_forward_hook(self.count)

    def count(self, *args):
        self.encoded += 1

    def training_step(self, batch, batch_idx):
        patches = self.encoder(batch["images"])
        states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        logits = self.out(states[:, :-1] + patches.mean(1, keepdim=True))
        labels = batch["tokens"][:, 1:].masked_fill(~batch["mask"][:, 1:], -100)
        loss = F.cross_entropy(logits.transpose(1, 2), labels)
        self.log("own_loss", loss)
        return {"loss": loss, "logits": logits}


def token_losses(host, batch, outputs):
    return TokenLosses.of_logits(outputs["logits"], batch["tokens"][:, 1:].masked_fill(~batch["mask"][:, 1:], -100))


def emphasised(host, batch, outputs):
    read = token_losses(host, batch, outputs)
    return read._replace(emphasis=(read.tokens % 3 == 0).float())


def plugged(token_losses=token_losses, host=Speaker, **objective):
    torch.manual_seed(0)
    return plug_in(host(), HardNegativeObjective(**ON, **objective), **PLACES, token_losses=token_losses)


def bare():
    torch.manual_seed(0)
    return Speaker()


def step_of(model, batch):
    model.log = lambda *args, **kwargs: None
    return model._host_step(batch, 0)


def test_reports_are_read_as_by_a_step_on_swapped_images_without_the_encoder():
    model, batch = plugged(), next(iter(loader()))
    order = torch.tensor([2, 2, 0, 1])
    outputs = step_of(model, batch)
    read = model.token_losses(batch, outputs, order)
    assert model.encoded == 1
    swapped = {**batch, "images": batch["images"][order]}
    host = bare()
    expected = token_losses(host, swapped, step_of_bare(host, swapped))
    assert torch.equal(read.losses, expected.losses)
    assert torch.equal(read.mask, expected.mask)
    assert torch.equal(model.token_losses(batch, outputs).losses, token_losses(model, batch, outputs).losses)
    assert "forward" not in vars(model.encoder)


def step_of_bare(host, batch):
    host.log = lambda *args, **kwargs: None
    return host.training_step(batch, 0)


def test_images_move_towards_the_own_one():
    model, batch = plugged(), next(iter(loader()))
    order, outputs = torch.tensor([2, 2, 0, 1]), step_of(model, batch)
    whole = model.token_losses(batch, outputs, order, torch.ones(4))
    torch.testing.assert_close(whole.losses, token_losses(model, batch, outputs).losses)
    mean = model.token_losses(batch, outputs, torch.full((4,), -1))
    patches = model.encoder(batch["images"]).mean(0).expand(4, -1, -1)
    states = model.decoder["norm"](model.decoder["words"](batch["tokens"]))
    logits = model.out(states[:, :-1] + patches.mean(1, keepdim=True))
    torch.testing.assert_close(mean.losses, token_losses(model, batch, {"logits": logits}).losses)


@pytest.mark.parametrize(
    "objective",
    [
        {"token_weights": ByImage()},
        {"token_weights": ByImage(hardened=True, k=2)},
        {"token_weights": ByText(k=2)},
        {"likelihood_margin": LikelihoodMargin()},
        {"token_weights": ByImage(), "likelihood_margin": LikelihoodMargin(side="both")},
    ],
)
def test_a_host_trains_with_it_and_encodes_its_images_once_a_step(objective, tmp_path):
    model = plugged(**objective, weights=Weights(alignment=0.0, likelihood=1.0))
    logged = []
    log = type(model).log
    model.log = lambda name, *args, **kwargs: (logged.append(name), log(model, name, *args, **kwargs))[1]
    before = [p.detach().clone() for p in model.parameters()]
    run = trainer(tmp_path)
    run.fit(model, loader())
    assert logged.count("train/token_loss") == run.global_step
    assert model.encoded == run.global_step
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model._calls == {}
    assert model._arguments == ((), {})


def test_own_loss_is_logged_by_the_step_itself_only(tmp_path):
    model = plugged(token_weights=ByImage())
    kept = []
    put = pl.LightningModule.log
    model_log = lambda self, name, *args, **kwargs: (kept.append(name), put(self, name, *args, **kwargs))[1]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.LightningModule, "log", model_log)
        run = trainer(tmp_path)
        run.fit(model, loader())
    assert kept.count("own_loss") == run.global_step


def test_a_host_with_a_mean_loss_only_is_trained_by_the_margin_of_whole_batches():
    margin = LikelihoodMargin(beta=2.0, margin=1.0, choice="random")
    model = plugged(token_losses=None, likelihood_margin=margin, weights=Weights(alignment=0.0, likelihood=1.0))
    batch = next(iter(loader()))
    outputs = step_of(model, batch)
    order = torch.tensor([2, 2, 0, 1])
    own, other = (model.token_losses(batch, outputs, which).of_reports for which in (None, order))
    host = bare()
    swapped = step_of_bare(host, {**batch, "images": batch["images"][order]})["loss"]
    assert torch.equal(own, outputs["loss"].expand(4))
    assert torch.equal(other, swapped.expand(4))


class Reader(Speaker):
    """A host that reads its reports itself."""

    def token_losses(self, batch, outputs, image_order=None, towards=None):
        self.was_asked = True
        losses = outputs["logits"].square().sum(-1)
        return TokenLosses(losses if image_order is None else losses + 1, batch["mask"][:, 1:])


def test_the_method_of_the_host_comes_first(tmp_path):
    model = plugged(host=Reader, token_weights=ByImage())
    trainer(tmp_path).fit(model, loader())
    assert model.was_asked


class Manual(Speaker):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.with_hard_negatives(outputs["loss"], batch, outputs))
        optimizer.step()


def test_a_host_gives_the_emphasis_of_its_tokens(tmp_path):
    model = plugged(token_losses=emphasised, token_weights=ByEmphasis(scale=2.0), weights=Weights(alignment=0.0))
    logged = []
    model.log = lambda name, value, **kwargs: logged.append(float(value)) if name == "train/token_weight" else None
    run = trainer(tmp_path)
    run.fit(model, loader())
    batches = list(loader())
    assert len(logged) == run.global_step >= len(batches)
    expected = []
    for batch in batches:
        tokens = batch["tokens"][:, 1:][batch["mask"][:, 1:]].tolist()
        expected.append(sum(3 if token % 3 == 0 else 1 for token in tokens) / len(tokens))
    assert logged[: len(batches)] == pytest.approx(expected)
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: plugged(token_losses=None, token_weights=ByImage()), "give token_losses="),
        (lambda: plugged(edit_margin=EditMargin()), "edit_margin.*let HardNegativeSpeaker define edited_token_losses"),
        (lambda: plugged(host=Manual, token_weights=ByImage()), "optimises manually"),
        (
            lambda: plugged(token_weights=ByImage(choice="paired")),
            "token_weights.choice=paired needs images",
        ),
        (
            lambda: plug_in(
                bare(),
                HardNegativeObjective(**ON, token_weights=ByImage()),
                **{**PLACES, "images": lambda host, batch, outputs: host.encoder(batch["images"])},
                token_losses=token_losses,
            ),
            "give the path of the image encoder",
        ),
        (lambda: plugged(token_losses="outputs.logits", token_weights=ByImage()), "expected TokenLosses"),
        (
            lambda: plug_in(
                bare(), HardNegativeObjective(**ON, likelihood_margin=LikelihoodMargin()), **PLACES, chunks=2
            ),
            "set chunks to 1",
        ),
    ],
)
def test_what_cannot_be_read_again_is_told(made, told, tmp_path):
    with pytest.raises(UserError, match=told):
        trainer(tmp_path).fit(made(), loader())


def test_the_mean_of_a_batch_leaves_rows_that_are_not_finite_out():
    rows = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [3.0, 6.0]])
    assert reordered(rows, torch.tensor([-1, -1, 0])).tolist() == [[2.0, 4.0], [2.0, 4.0], [1.0, 2.0]]


def test_rows_of_others_at_any_depth_and_what_has_no_rows_stays():
    value = {
        "patches": torch.arange(12.0).view(3, 2, 2),
        "more": [torch.tensor([5, 6, 7]), (torch.ones(7, 2), torch.tensor(3.0), "text")],
    }
    moved = reordered(value, torch.tensor([2, 0, 0]))
    assert torch.equal(moved["patches"], value["patches"][[2, 0, 0]])
    assert moved["more"][0].tolist() == [7, 5, 5]
    for found, before in zip(moved["more"][1], value["more"][1], strict=True):
        assert found is before


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4)], ids=str)
def test_rows_move_towards_their_own(shape):
    value, way = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.25, 1.0])
    order = torch.tensor([1, 2, 0])
    moved = reordered({"x": value, "kinds": torch.tensor([1, 2, 3])}, order, way)
    for i in range(3):
        torch.testing.assert_close(moved["x"][i], (1 - way[i]) * value[order[i]] + way[i] * value[i])
    assert moved["kinds"].tolist() == [2, 3, 1]
    mean = reordered(value, torch.tensor([-1, -1, 0]), way)
    torch.testing.assert_close(mean[0], value.mean(0))
    torch.testing.assert_close(mean[1], 0.75 * value.mean(0) + 0.25 * value[1])


def test_the_mean_of_rows_of_which_none_is_finite_is_zero():
    rows = torch.full((2, 2), torch.inf)
    assert reordered(rows, torch.tensor([-1, -1])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_module_answers_call_by_call_and_computes_again_afterwards():
    module, seen = nn.Linear(2, 2), []
    module.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with answering(module, ["a", "b"], "images='encoder'"):
        assert [module(1), module(2)] == ["a", "b"]
        with pytest.raises(
            UserError, match=r"images='encoder': the step with other images called .* more than 2 times"
        ):
            module(3)
    assert seen == ["a", "b"]
    assert module(torch.ones(1, 2)).shape == (1, 2)
    assert "forward" not in vars(module)


def test_a_forward_of_its_own_is_put_back():
    module = nn.Linear(2, 2)
    module.forward = lambda value: value + 1
    with pytest.raises(RuntimeError), answering(module, ["a"], "images"):
        raise RuntimeError
    assert module(3) == 4
