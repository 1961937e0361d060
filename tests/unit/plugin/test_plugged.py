"""What a plugged class reads of a step, and when it forgets it."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, plug_in
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.objectives.schedule import TrainingProgress

BATCH = next(iter(loader()))


class Reads(Captioner):
    """Has a method of its own for reports read with other images."""

    def token_losses(self, batch, outputs, image_order=None, towards=None):
        return batch, outputs, image_order, towards


class Speaker(Captioner):
    """Says each word from the image alone."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.out = nn.Linear(8, 9)

    def training_step(self, batch, batch_idx):
        logits = self.out(self.encoder(batch["images"]).mean(1))[:, None].expand(-1, 6, -1)
        self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        self.log("own", 1.0)
        return {"loss": F.cross_entropy(logits.transpose(1, 2), batch["tokens"]), "logits": logits}


def token_losses(batch, outputs):
    return TokenLosses.of_logits(outputs["logits"], batch["tokens"])


def plugged(host=Captioner, **places):
    model = plug_in(host(), HardNegativeObjective(), **PLACES, **places)
    model._progress = lambda: TrainingProgress(fraction=0.5)
    return model


@pytest.mark.parametrize(
    ("where", "expected"),
    [("batch.mask", int(BATCH["mask"].sum())), (lambda batch, outputs: 2.5, 2.5), (None, None)],
)
def test_the_weight_of_a_part_is_the_sum_at_its_place(where, expected):
    assert plugged(chunk_weight=where).chunk_weight(BATCH, None) == expected


def test_chunks_are_a_number_or_a_function_that_is_no_method():
    assert plugged(chunks=3)._chunks == 3
    halves = lambda batch: [batch[:1], batch[1:]]  # noqa: E731
    for model in (plugged(chunks=halves), plug_in(Captioner, chunks=halves, **PLACES)()):
        assert model._chunks([1, 2, 3]) == [[1], [2, 3]]


def test_the_method_of_the_host_is_asked_first():
    order, towards = torch.tensor([1, 0]), torch.ones(2)
    assert plugged(Reads).token_losses("batch", "outputs", order, towards) == ("batch", "outputs", order, towards)
    assert plugged(Reads).token_losses("batch", "outputs") == ("batch", "outputs", None, None)


@pytest.mark.parametrize(
    "arguments", [((BATCH, 0), {}), ((), {"batch": BATCH, "batch_idx": 0})], ids=["by place", "by name"]
)
def test_a_host_without_one_is_run_again_with_other_images_and_logs_once(arguments, monkeypatch):
    model, logged, order = plugged(Speaker, token_losses=token_losses), [], torch.tensor([2, 0, 3, 1])
    # for this test only, and no attribute of the class after it
    monkeypatch.setattr(Captioner, "log", lambda self, name, value, **options: logged.append(name))
    args, kwargs = arguments
    outputs = model._host_step(*args, **kwargs)
    own, others = model.token_losses(BATCH, outputs), model.token_losses(BATCH, outputs, order)
    for read, images in ((own, BATCH["images"]), (others, BATCH["images"][order])):
        log_probs = model.out(model.encoder(images).mean(1)).log_softmax(-1)
        expected = -log_probs[:, None].expand(-1, 6, -1).gather(2, BATCH["tokens"][..., None])[..., 0]
        torch.testing.assert_close(read.losses, expected)
    assert logged == ["own"]
    assert model._part_log is None


@pytest.mark.parametrize("in_step", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_step_is_forgotten_once_its_terms_are_there(monkeypatch, in_step, fails):
    def terms(self, *given):
        if fails:
            raise RuntimeError("no terms")
        return given

    monkeypatch.setattr(HardNegativeMixin, "_terms", terms)
    model = plugged()
    model._calls, model._arguments, model._in_step = {"encoder": [1]}, ((BATCH, 0), {}), in_step
    if fails:
        with pytest.raises(RuntimeError, match="no terms"):
            model._terms("pairs", None, "loss", "read")
    else:
        assert model._terms("pairs", None, "loss", "read") == ("pairs", None, "loss", "read")
    assert (model._calls, model._arguments) == (({"encoder": [1]}, ((BATCH, 0), {})) if in_step else ({}, ((), {})))
