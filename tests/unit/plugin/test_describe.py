"""The table of places: what it lists, that they are right, and that the host stays as it was."""

import copy
import random
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from transformers import BatchEncoding

from hardneg_plugin import Feature, HardNegativeMixin, HardNegativeObjective, describe, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.describe import _DEPTH
from hardneg_plugin.plugin.feature_paths import FeaturePaths, recorded

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer


def rows(table):
    """By path, the other columns."""
    lines = [line.split("  ") for line in table.splitlines()[2:] if "  " in line]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {path: tuple(rest) for path, *rest in cells}


def test_the_table_of_a_host():
    expected = """\
Captioner, a step with 4 studies:
path          calls  shape            gradient
encoder       1      (4, 5, 8)        yes       per position
encoder.0     1      (4, 5, 8)        yes       per position
encoder.1     1      (4, 5, 8)        yes       per position
decoder.words 1      (4, 6, 8)        yes       per position
decoder.norm  1      (4, 6, 8)        yes       per position
batch.id             (4,) str         no        identities
batch.images         (4, 5, 4)        no        per position
batch.tokens         (4, 6) int64     no        token ids
batch.mask           (4, 6) bool      no        mask"""
    table = describe(Captioner(), next(iter(loader())))
    assert [line.split() for line in table.splitlines()] == [line.split() for line in expected.splitlines()]


class Layers(nn.Module):
    """Frozen layers that repeat, an output with names, views in one batch, a module called for each view, a leap to a list."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(5)).requires_grad_(False)
        self.named, self.views, self.pooled, self.idle = Named(), nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(4, 4)

    def forward(self, images, **rest):
        for layer in self.layers:
            images = layer(images)
        self.named(images)
        self.views(images.repeat(2, 1, 1))
        self.pooled(images[:, 0])
        self.pooled(images.mean(1))
        return SimpleNamespace(kept=images, loss=images.mean())


class Named(nn.Module):
    def forward(self, images):
        return {"last": images, "all": (images, images, images, images), "map": images.mT[..., None], "more": {"x": 3}}


def test_repeated_layers_named_outputs_and_several_calls():
    batch = {"images": torch.randn(3, 5, 4), "labels": [0, 1, 2], "note": "text", "number": torch.tensor(4.0)}
    table = describe(Layers(), batch)
    assert rows(table) == {
        "layers.4": ("1", "(3, 5, 4)", "no", "per position, the last of 5 alike"),
        "named.last": ("1", "(3, 5, 4)", "no", "per position"),
        "named.all.-1": ("1", "(3, 5, 4)", "no", "per position"),
        "named.map": ("1", "(3, 4, 5, 1)", "no", "per cell of a map"),
        "pooled": ("2", "(3, 6)", "yes", "per study"),
        "outputs.kept": ("(3, 5, 4)", "no", "per position"),
        "batch.images": ("(3, 5, 4)", "no", "per position"),
        "batch.labels": ("(3,) int", "no", "identities"),
    }
    assert "Further modules return tensors whose first size is not 3, as views (6, 5, 4)." in table
    assert 'Several calls: Feature(path, calls="mean")' in table


class Twice(nn.Module):
    """Two blocks alike, two layers alike, three layers alike, and a module that returns numbers of another first size."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
        self.pair, self.three = (nn.ModuleList(nn.Linear(4, 4) for _ in range(count)) for count in (2, 3))
        self.codes = Codes()

    def forward(self, images, tokens, **rest):
        for layer in (*self.blocks, *self.pair, *self.three):
            images = layer(images)
        self.codes(tokens.repeat(2, 1))


def test_two_blocks_alike_are_one_row_and_two_layers_are_two():
    batch = {"images": torch.randn(3, 5, 4), "tokens": torch.arange(18).view(3, 6)}
    table = describe(Twice(), batch)
    assert [path for path in rows(table) if not path.startswith("batch")] == [
        "blocks.1",
        "pair.0",
        "pair.1",
        "three.2",
    ]
    assert rows(table)["blocks.1"][-1].endswith("the last of 2 alike")
    assert "Further modules" not in table  # token ids are no features


def test_places_are_listed_to_a_depth():
    deep = torch.randn(3, 4)
    for name in "edcba":
        deep = {name: deep, f"beside_{name}": torch.randn(3, 4)}
    found = [path for path in rows(describe(Layers(), {"images": torch.randn(3, 5, 4), **deep})) if "beside" in path]
    assert found == [
        f"batch.{path}"
        for path in ("a.b.c.beside_d", "a.b.beside_c", "a.beside_b", "beside_a")
        if path.count(".") < _DEPTH
    ]


def test_every_path_of_the_table_leads_to_a_tensor_of_its_shape():
    host, batch = Layers(), {"images": torch.randn(3, 5, 4), "labels": [0, 1, 2]}
    found = rows(describe(host, batch))
    for path, cells in found.items():
        place = Feature(path, calls="last") if cells[0].isdigit() else path
        features = FeaturePaths(images=place, reports="pooled")
        with recorded(features.modules(host)) as calls:
            outputs = host(**batch)
        value = features.read("images", host, batch, outputs, calls)
        assert str(tuple(value.shape) if isinstance(value, torch.Tensor) else (len(value),)) in " ".join(cells)
    assert len(found) == 8


class Masks(nn.Module):
    """Modules that return masks of positions, and tensors that look like one."""

    def __init__(self):
        super().__init__()
        self.encoder, self.gate, self.codes, self.scores = Masked(), nn.ReLU(), Codes(), nn.Linear(4, 5)

    def forward(self, images, tokens, **rest):
        states = self.encoder(images)
        self.gate((states["last_hidden_state"][..., 0] > -9).float())
        self.codes(tokens)
        return self.scores(states["last_hidden_state"][:, 0])


class Masked(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)

    def forward(self, images):
        return {"last_hidden_state": super().forward(images), "attention_mask": images[..., 0] > 0}


class Codes(nn.Module):
    def forward(self, tokens):
        return tokens, tokens * 0, tokens[:, 0] > 0, (tokens > 2).int()


def test_masks_are_told_from_token_ids_and_features_wherever_they_come_from():
    batch = {
        "images": torch.randn(3, 5, 4),
        "tokens": torch.arange(18).view(3, 6),
        "int_mask": torch.tensor([[1, 1, 0]] * 3)[:, [0, 1, 1, 2]],
        "float_mask": torch.ones(3, 6),
        "bool_mask": torch.zeros(3, 6, dtype=torch.bool),
        "segments": torch.zeros(3, 6, dtype=torch.long),
        "leaf": torch.ones(3, 6, requires_grad=True),
    }
    assert rows(describe(Masks(), batch)) == {
        "encoder.last_hidden_state": ("1", "(3, 5, 4)", "yes", "per position"),
        "encoder.attention_mask": ("1", "(3, 5) bool", "no", "mask"),
        "gate": ("1", "(3, 5) float32", "no", "mask"),
        "codes.3": ("1", "(3, 6) int32", "no", "mask"),
        "scores": ("1", "(3, 5)", "yes", "per study"),
        "outputs": ("(3, 5)", "yes", "per study"),
        "batch.images": ("(3, 5, 4)", "no", "per position"),
        "batch.tokens": ("(3, 6) int64", "no", "token ids"),
        "batch.int_mask": ("(3, 4) int64", "no", "mask"),
        "batch.float_mask": ("(3, 6) float32", "no", "mask"),
        "batch.bool_mask": ("(3, 6) bool", "no", "mask"),
        "batch.segments": ("(3, 6) int64", "no", "token ids"),
        "batch.leaf": ("(3, 6)", "yes", "per study"),
    }


class EachText(nn.Module):
    """Embeds each text on its own, as `(T, D)`."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)

    def forward(self, texts, **rest):
        return torch.stack([self.words(text).mean(0) for text in texts])


def test_positions_that_look_like_studies_are_told():
    lengths = {"texts": [torch.arange(3), torch.arange(2), torch.arange(3)], "labels": [0, 1, 2]}
    table = describe(EachText(), lengths)
    assert rows(table)["words"] == ("3", "(3, 4)", "yes", "per study, in 2 of 3 calls")
    tokens = torch.ones(3, 6, dtype=torch.long)
    assert "Pass a batch of another size" not in describe(EachText(), {"texts": tokens})
    doubt = "3 is the number of studies and of positions in batch.texts (3, 3): what is per study here may be per position of"
    assert doubt in describe(EachText(), {"texts": tokens[:, :3]})
    assert "The batch has one study, and other first sizes" in describe(EachText(), {"texts": tokens[:1]})


class Leaves(Captioner):
    """A host whose step changes all that a step could."""

    def __init__(self):
        super().__init__()
        self.norm, self.counted, self.kept = nn.BatchNorm1d(4), {}, 0
        self.latest = {"states": torch.zeros(3)}
        self.frozen = nn.Linear(2, 2)
        self.frozen.weight.grad = torch.ones(2, 2)

    def training_step(self, batch, batch_idx):
        self.norm(batch["images"].flatten(0, 1))
        self.counted[len(self.counted)] = random.random() + numpy.random.rand()  # noqa: NPY002
        self.kept, self.added = self.kept + 1, True
        self.latest["states"] = torch.ones(3)
        self.frozen.eval()
        self.log("loss", self.kept)
        self.log_dict({"a": 1.0})
        loss = super().training_step(batch, batch_idx)
        (self.frozen.weight.sum() + loss).backward()
        batch["images"] = None
        return loss


@pytest.mark.parametrize("plugged", [False, True])
def test_the_host_and_the_generators_are_as_before(plugged):
    host = Leaves()
    if plugged:
        plug_in(host, HardNegativeObjective(), **PLACES)
    state, modes = copy.deepcopy(host.state_dict()), [module.training for module in host.modules()]
    names = set(vars(host))
    batch = next(iter(loader()))
    given = dict(batch)
    generators = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of log outside a trainer
        assert "encoder" in rows(describe(host, batch))
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert (numpy.random.get_state()[1] == generators[2]).all()  # noqa: NPY002
    assert all(torch.equal(value, state[name]) for name, value in host.state_dict().items())
    assert [module.training for module in host.modules()] == modes
    assert set(vars(host)) == names
    assert (host.counted, host.kept, host.seen) == ({}, 0, [])
    assert torch.equal(host.latest["states"], torch.zeros(3))
    assert [name for name, p in host.named_parameters() if p.grad is not None] == ["frozen.weight"]
    assert torch.equal(host.frozen.weight.grad, torch.ones(2, 2))
    assert batch == given
    assert not any(module._forward_hooks for module in host.modules())


class Keeps(Captioner):
    """A host that assigns to buffers, makes modules in its first step and keeps collections of several kinds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(3))
        self.recent, self.counts = deque([1.0], maxlen=2), Counter(seen=1)
        self.steps, self.names = defaultdict(list), OrderedDict(a=1)
        self.late = None

    def training_step(self, batch, batch_idx):
        self.average = 0.9 * self.average + 1
        self.late = nn.Linear(2, 2)
        self.encoder.register_buffer("made", torch.ones(1), persistent=False)
        self.recent.extend([2.0, 3.0])
        self.counts["seen"] += 1
        self.steps["a"].append(1)
        self.names.pop("a")
        return super().training_step(batch, batch_idx)


def test_buffers_modules_and_collections_that_a_step_replaces_are_as_before():
    host = Keeps()
    average, names = host.average, list(host.state_dict())
    assert "failed" not in describe(host, next(iter(loader())))
    assert host.average is average
    assert host.average.tolist() == [0, 0, 0]
    assert list(host.state_dict()) == names
    assert host.late is None
    assert not list(host.encoder.buffers())
    assert (list(host.recent), host.recent.maxlen, host.counts) == ([1.0], 2, Counter(seen=1))
    assert (dict(host.steps), host.names) == ({}, OrderedDict(a=1))


def test_a_batch_of_tokenizers_is_as_before():
    class Pops(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def training_step(self, batch):
            return self.layer(batch.pop("images"))

    batch = BatchEncoding({"images": torch.randn(3, 4)})
    assert "layer" in rows(describe(Pops(), batch))
    assert list(batch) == ["images"]


def test_a_training_goes_on_as_without_a_look(tmp_path):
    runs = []
    for looks in (False, True):
        pl.seed_everything(3, verbose=False)
        model = plug_in(Captioner(), HardNegativeObjective(), **PLACES)

        class Look(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx, looks=looks):
                if looks:
                    assert "hard_negatives" not in describe(pl_module, batch)

        run = trainer(tmp_path, callbacks=[Look()], max_epochs=1)
        run.fit(model, loader())
        runs.append((torch.stack(model.seen), run.callback_metrics["train/alignment_loss"]))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


class NeedsATrainer(Captioner):
    def training_step(self, batch):
        loss = self.loss(batch)
        return loss * self.trainer.global_step


class Fails(Captioner):
    def training_step(self, studies):
        raise KeyError(studies["image"])


def test_a_step_that_fails_is_told_with_what_it_called():
    batch = next(iter(loader()))
    table = describe(NeedsATrainer(), batch)
    assert {"encoder", "decoder.norm", "batch.mask"} <= rows(table).keys()
    assert "The step failed after these calls. RuntimeError: NeedsATrainer" in table
    with pytest.raises(UserError, match=r"the step of Fails failed before it called a module: 'image'\. Pass a batch"):
        describe(Fails(), batch)
    with pytest.raises(UserError, match=r"describe takes a module, but got a type: pass an instance"):
        describe(Captioner, batch)


class Manual(Captioner):
    """A step that optimises manually with several optimizers."""

    forms = (
        lambda one, two: (one, two),
        lambda one, two: ([one, two], []),
        lambda one, two: [{"optimizer": one}, {"optimizer": two}],
    )

    def __init__(self, form):
        super().__init__()
        self.automatic_optimization, self.form = False, form

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.lr_schedulers()
        with first.toggle_model():
            first.zero_grad()
        self.manual_backward(self.with_hard_negatives(self.loss(batch), batch, None))
        self.clip_gradients(first, 1.0)
        second.step()
        assert second.step() is None

    def configure_optimizers(self):
        return Manual.forms[self.form](*(torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)))


@pytest.mark.parametrize("form", range(3))
def test_a_step_that_optimises_manually_runs_through_and_trains_nothing(form):
    host = Manual(form)
    before = copy.deepcopy(host.state_dict())
    table = describe(host, next(iter(loader())))
    assert "encoder" in rows(table)
    assert "failed" not in table
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert all(parameter.grad is None for parameter in host.parameters())


class ReadsItsOptimizers(Captioner):
    """A step that optimises manually by a closure, and reads rate and schedule."""

    def __init__(self, form):
        super().__init__()
        self.automatic_optimization, self.form = False, form

    def training_step(self, batch, batch_idx):
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert optimizer.param_groups[0]["lr"] == optimizer.optimizer.defaults["lr"] == 0.1

        def closure():
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        assert optimizer.step(closure).requires_grad
        if self.form:
            schedule.step()
            assert schedule.base_lrs == [0.1]
        else:
            assert schedule is None

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        return (
            optimizer,
            ([optimizer], [schedule]),
            {"optimizer": optimizer, "lr_scheduler": schedule},
            {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}},
            ([optimizer], [{"scheduler": schedule}]),
        )[self.form]


@pytest.mark.parametrize("form", range(5))
def test_optimizers_and_schedules_can_be_read(form):
    table = describe(ReadsItsOptimizers(form), next(iter(loader())))
    assert "encoder" in rows(table)
    assert "failed" not in table


class OwnStep(HardNegativeMixin, Captioner):
    def training_step(self, batch, batch_idx):
        return self.with_hard_negatives(self.loss(batch), batch, None)


def test_a_host_that_adds_the_terms_itself():
    assert "encoder" in rows(describe(OwnStep(), next(iter(loader()))))


def test_places_are_asked_for_by_a_question_mark():
    message = r"images='\?': print\(hardneg_plugin\.describe\(host, batch\)\) lists the places"
    with pytest.raises(UserError, match=message):
        plug_in(Captioner(), **{**PLACES, "images": "?"})
