"""`plug_in` around hosts that know nothing of it."""

import copy
import functools
import gc
import logging
import math
import pickle
import sys
import weakref
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch.utils.checkpoint import checkpoint

from hardneg_plugin import HardNegativeObjective, PairEmbeddings, plug_in
from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.errors import UserError
from hardneg_plugin.grounding import Grounding, Learned
from hardneg_plugin.objectives import (
    GroundedKnowledgeObjective,
    Hinge,
    InBatch,
    Paired,
    RelationEnhancedObjective,
    Weights,
)
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress
from hardneg_plugin.plugin.feature_paths import FeaturePaths

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer


def objective(**options):
    return HardNegativeObjective(**{"schedule": Constant(hardness=0.5), "separation": Hinge(margin=0.0), **options})


class Totals(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        if outputs:
            self.losses.append(outputs["loss"].item())


def fit(folder, host=Captioner, *, prepare=None, compiled=None, plugged=True, places=PLACES, own=None, **options):
    """Totals per step of a training from a fixed seed, and the model."""
    pl.seed_everything(3, verbose=False)
    model = host()
    if prepare is not None:
        prepare(model)
    if plugged:
        plug_in(model, own or objective(), **places)
    totals = Totals()
    run = trainer(folder, **{**options, "callbacks": [totals, *options.get("callbacks", ())]})
    run.fit(model if compiled is None else torch.compile(model, backend=compiled), loader(), loader(8))
    return totals.losses, model, run


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("reference"))[0]


@pytest.mark.parametrize("source", [InBatch(), Paired()], ids=["in_batch", "paired"])
def test_features_are_those_of_the_step_pooled_and_attached(tmp_path, source):
    """The first step's gradient is that of a loss written out by hand."""
    model, plugged = Captioner(dropout=0.0), Captioner(dropout=0.0)
    plugged.load_state_dict(model.state_dict())

    def mined(host, batch):
        """As if each study's mined one were the next of the batch."""
        if isinstance(source, InBatch):
            return None
        images, tokens = (batch[name].roll(-1, 0) for name in ("images", "tokens"))
        return PairEmbeddings(host.encoder(images).mean(1), host.decoder["norm"](host.decoder["words"](tokens)).mean(1))

    weights = Weights(0.7, 0.2, 0.1)
    places = {**PLACES, "negatives": lambda host, batch, outputs: mined(host, batch)}
    plug_in(plugged, objective(negatives=source, weights=weights), **places)
    batch = next(iter(loader()))

    class Keep(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters()}

    keep = Keep()
    trainer(tmp_path, max_steps=1, callbacks=[keep]).fit(plugged, loader())
    states = model.decoder["norm"](model.decoder["words"](batch["tokens"]))
    mask = batch["mask"][:, :, None]
    pairs = PairEmbeddings(
        images=model.encoder(batch["images"]).mean(1),
        reports=(states * mask).sum(1) / mask.sum(1),
        study_ids=batch["id"],
        texts=batch["tokens"],
        negatives=mined(model, batch),
    )
    terms = objective(negatives=source)(pairs, TrainingProgress(step=0, epoch=0, fraction=0.0))
    (0.7 * model.loss(batch) + 0.2 * terms.alignment_loss + 0.1 * terms.separation_loss).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(keep.gradients[name], parameter.grad, atol=1e-6), name
    assert keep.gradients["hard_negatives.log_scales"] != 0


@pytest.mark.parametrize("own", [{}, {"image_width": 8, "report_width": 8, "width": 4}], ids=["no heads", "heads"])
def test_the_hosts_losses_are_bit_identical_with_no_weight_on_the_objective(tmp_path, own):
    runs = []
    for plugged in (False, True):
        pl.seed_everything(3, verbose=False)
        model = Captioner()
        if plugged:
            plug_in(model, objective(weights=Weights(1.0, 0.0, 0.0), **own), **PLACES)
        trainer(tmp_path).fit(model, loader(), loader(8))
        runs.append(model)
    bare, plugged = runs
    assert torch.equal(torch.stack(bare.seen), torch.stack(plugged.seen))
    assert all(torch.equal(value, plugged.state_dict()[name]) for name, value in bare.state_dict().items())


def test_an_instance_changes_in_place_and_its_class_does_not():
    methods = dict(vars(Captioner))
    model = Captioner()
    assert plug_in(model, **PLACES) is model
    assert isinstance(model, Captioner)
    assert type(model) is not Captioner
    assert type(model).__name__ == "HardNegativeCaptioner"
    assert dict(vars(Captioner)) == methods
    assert type(Captioner()) is Captioner
    assert isinstance(model.get_submodule("hard_negatives"), HardNegativeObjective)


def test_instances_of_a_plugged_class_have_objectives_of_their_own(tmp_path):
    own = objective(image_width=8, report_width=8, width=4)
    plugged = plug_in(Captioner, own, **PLACES)
    first, second = plugged(), plugged(8, dropout=0.0)
    assert first.hard_negatives is not second.hard_negatives is not own
    assert torch.equal(first.hard_negatives.image_head.weight, own.image_head.weight)
    other = objective()
    assert plugged(hard_negatives=other).hard_negatives is other
    run = trainer(tmp_path)
    run.fit(first, loader())
    assert "train/alignment_loss" in run.callback_metrics
    assert not torch.equal(first.hard_negatives.image_head.weight, own.image_head.weight)


class Logged(pl.loggers.CSVLogger):
    def log_hyperparams(self, params=None):
        self.params = dict(params)


@pytest.mark.parametrize("arguments", [((16, 0.1), {}), ((), {"dropout": 0.1}), ((16,), {"dropout": 0.3})])
def test_hyperparameters_are_the_hosts(tmp_path, arguments):
    class Changes(Captioner):
        def __init__(self, width=8, dropout=0.2):
            dropout = dropout / 2  # what counts is the value at save_hyperparameters
            super().__init__(width, dropout)

    args, kwargs = arguments
    for host in (Captioner, Changes):
        bare = host(*args, **kwargs)
        model = plug_in(host, objective(), **PLACES)(*args, **kwargs)
        instance = plug_in(host(*args, **kwargs), objective(), **PLACES)
        assert dict(model.hparams) == dict(instance.hparams) == dict(bare.hparams)
        assert dict(model.hparams_initial) == dict(bare.hparams_initial)
        logger = Logged(tmp_path)
        trainer(tmp_path, logger=logger, max_steps=1).fit(model, loader())
        assert logger.params == dict(bare.hparams)


class Steps:
    """Signatures of `training_step` that Lightning accepts."""

    class Batch(Captioner):
        def training_step(self, batch):
            return self.loss(batch)

    class OtherNames(Captioner):
        def training_step(self, studies, number):
            assert isinstance(number, int)
            return self.loss(studies)

    class Anything(Captioner):
        def training_step(self, *args):
            assert len(args) == 2
            return self.loss(args[0])

    class WithDefault(Captioner):
        def training_step(self, batch, batch_idx=None, dataloader_idx=7):
            assert batch_idx is not None
            assert dataloader_idx == 7
            return self.loss(batch)

    class Decorated(Captioner):
        def decorate(step):
            @functools.wraps(step)
            def decorated(self, *args, **kwargs):
                return step(self, *args, **kwargs)

            return decorated

        @decorate
        def training_step(self, batch):
            return self.loss(batch)

    class Mapping(Captioner):
        def training_step(self, batch, batch_idx):
            return {"loss": self.loss(batch), "extra": batch["id"]}


@pytest.mark.parametrize("host", [value for value in vars(Steps).values() if isinstance(value, type)])
@pytest.mark.parametrize("compiled", [None, "eager"])
def test_every_signature_of_a_step(tmp_path, reference, host, compiled):
    if host is Steps.Decorated and compiled:
        pytest.skip("Lightning itself passes such a step too many arguments once it is compiled")
    assert fit(tmp_path, host, compiled=compiled)[0] == pytest.approx(reference, rel=1e-6)


def test_a_step_takes_its_batch_by_keyword(tmp_path):
    _, model, _ = fit(tmp_path, max_steps=1)
    batch = next(iter(loader()))
    model.log = lambda *args, **kwargs: None
    model.eval()
    assert torch.equal(model.training_step(batch_idx=0, batch=batch), model.training_step(batch, 0))


@pytest.mark.parametrize("returned", [None, {}, {"loss": None}])
def test_what_is_no_loss_is_left_to_lightning(tmp_path, returned):
    class Skips(Captioner):
        def training_step(self, batch, batch_idx):
            self.loss(batch)
            return returned

    if returned is None:
        losses, model, run = fit(tmp_path, Skips, max_epochs=1)
        assert not losses
        assert "train/alignment_loss" not in run.callback_metrics
        assert not model._calls
    else:
        with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="'loss' key needs to be present"):
            fit(tmp_path, Skips, max_epochs=1)


def test_a_step_that_fails_keeps_no_outputs():
    class Fails(Captioner):
        def training_step(self, batch, batch_idx):
            self.loss(batch)
            raise MemoryError

    model = plug_in(Fails(), HardNegativeObjective(image_width=8, report_width=8, width=4), **PLACES)
    with pytest.raises(MemoryError):
        model.training_step(next(iter(loader())), 0)
    assert not model._calls
    assert not model._in_step


def test_extra_outputs_reach_callbacks_and_places(tmp_path):
    class Outputs(Captioner):
        def training_step(self, batch, batch_idx):
            patches = self.encoder(batch["images"])
            return {"loss": self.loss(batch), "features": {"images": patches.mean(1)}, "kept": 5}

    kept = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            kept.append(outputs["kept"])

    fit(tmp_path, Outputs, places={**PLACES, "images": "outputs.features.images"}, callbacks=[Keep()])
    assert kept == [5] * 8


def test_callables_may_run_the_hosts_modules_again(tmp_path):
    def states(host, batch, outputs):
        assert outputs.shape == ()
        return host.decoder["norm"](model.decoder["words"](batch["tokens"]))

    model = Captioner()
    # the path to the same module still means the host's own call
    plug_in(
        model, objective(weights=Weights(0.0, 1.0, 0.0)), **{**PLACES, "images": states, "image_mask": "batch.mask"}
    )
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, loader())
    assert run.callback_metrics["train/positive_similarity"] == pytest.approx(1.0)


@pytest.fixture
def only_new_objects_are_collected():
    """A look through all that libraries have made takes a third of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects_are_collected")
def test_nothing_of_a_step_is_kept_and_evaluation_meets_no_hook(tmp_path):
    captured, hooks = [], []

    class Watches(Captioner):
        def loss(self, batch):
            hooks.append((self.training, sum(len(module._forward_hooks) for module in self.modules())))
            return super().loss(batch)

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_):
            gc.collect()
            assert not any(reference() is not None for reference in captured)

    def keep(module, arguments, output):
        captured.append(weakref.ref(output))

    def prepare(model):
        model.encoder.register_forward_hook(keep)
        model.decoder["norm"].register_forward_hook(keep)

    _, model, _ = fit(tmp_path, Watches, prepare=prepare, callbacks=[Watch()])
    gc.collect()
    assert len(captured) > 16
    assert not any(reference() is not None for reference in captured)
    assert set(hooks) == {(True, 4), (False, 2)}
    assert sum(len(module._forward_hooks) for module in model.modules()) == 2


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"images": "encodr"}, r"images='encodr': Captioner has no module 'encodr'\. Did you mean 'encoder'"),
        ({"report_mask": "mask"}, r"report_mask='mask'.*'batch' and 'outputs' start other paths"),
    ],
)
def test_a_wrong_module_is_told_when_it_is_plugged_in(places, message):
    with pytest.raises(UserError, match=message):
        plug_in(Captioner(), **{**PLACES, **places})


class Late(Captioner):
    """Makes its decoder in configure_model."""

    def __init__(self):
        super().__init__()
        self.late, self.decoder = self.decoder, None

    def configure_model(self):
        if self.decoder is None:
            self.decoder = self.late
            del self.late


class LateInSetup(Late):
    def setup(self, stage):
        super().configure_model()

    def configure_model(self):
        pass


@pytest.mark.parametrize("host", [Late, LateInSetup])
def test_modules_that_are_made_late(tmp_path, reference, host):
    assert fit(tmp_path, host)[0] == reference
    with pytest.raises(UserError, match=r"reports='decodr.norm': Hard\w+ has no module 'decodr'"):
        fit(tmp_path, host, places={**PLACES, "reports": "decodr.norm"})


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"images": "encoder.pooled"}, r"the output of 'encoder' has no 'pooled': it is a tensor of shape \(4, 5, 8\)"),
        ({"study_ids": "batch.ids"}, r"study_ids='batch\.ids': batch has no 'ids'.*Did you mean 'id'\?"),
        ({"images": "outputs.pooled"}, r"outputs has no 'pooled'"),
        ({"report_mask": lambda b, o: b["mask"][:, 1:]}, r"has 5 positions, but the features \(4, 6, 8\) have 6"),
        ({"images": "idle"}, r"expected 'idle' to be called once in training_step, but it was called 0 times.*outputs\.KEY"),
        ({"images": "twice"}, r"expected 'twice' to be called once in training_step, but it was called 2 times"),
        ({"negatives": "encoder"}, r"negatives: expected paired studies as PairEmbeddings.*got a tensor \(4, 5, 8\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_step_is_told(tmp_path, places, message):
    class Host(Captioner):
        def __init__(self):
            super().__init__()
            self.idle, self.twice = nn.Identity(), nn.Identity()

        def loss(self, batch):
            self.twice(self.twice(batch["images"]))
            return super().loss(batch)

    with pytest.raises(UserError, match=message):
        fit(tmp_path, Host, places={**PLACES, **places})


def test_features_without_gradient_of_a_trained_module_are_told(tmp_path):
    class Frozen(Captioner):
        def loss(self, batch):
            with torch.no_grad():
                self.encoder(batch["images"])
            return self.decoder["norm"](self.decoder["words"](batch["tokens"])).square().mean()

    with pytest.warns(UserWarning, match=r"images='encoder': these features carry no gradient.*use_reentrant=True"):
        fit(tmp_path, Frozen, max_epochs=1)


@pytest.mark.parametrize("case", ["manual", "iterator", "twice", "class twice", "no module", "attribute", "compiled"])
def test_what_cannot_be_plugged_in_is_told(tmp_path, case):
    class Manual(Captioner):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    class Takes(Captioner):
        def training_step(self, dataloader_iter):
            raise AssertionError

    class Named(Captioner):
        hard_negatives = 3

    plugged = plug_in(Captioner(), **PLACES)
    compiled = Captioner()
    trainer(tmp_path, max_steps=1).fit(torch.compile(compiled, backend="eager"), loader())
    actions = {
        "manual": (lambda: fit(tmp_path, Manual), r"optimises manually.*automatic_optimization to True, or call"),
        "iterator": (lambda: fit(tmp_path, Takes), r"takes dataloader_iter.*\(self, batch\) or \(self, batch, batch_idx\)"),
        "twice": (lambda: plug_in(plugged, **PLACES), r"has hard negatives already: plug in once"),
        "class twice": (lambda: plug_in(type(plugged), **PLACES), r"has hard negatives already"),
        "no module": (lambda: plug_in(torch.compile(Captioner()), **PLACES), r"takes a LightningModule.*OptimizedModule"),
        "attribute": (lambda: plug_in(Named(), **PLACES), r"has an attribute hard_negatives already"),
        "compiled": (lambda: plug_in(compiled, **PLACES), r"attribute training_step, which hides.*torch\.compile\(model\)"),
    }  # fmt: skip
    action, message = actions[case]
    with pytest.raises(UserError, match=message):
        action()


def compile_in_place(model):
    model.encoder.compile(backend="aot_eager")


def compile_and_replace(model):
    model.encoder = torch.compile(model.encoder, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [compile_in_place, compile_and_replace])
@pytest.mark.parametrize("images", ["encoder", "encoder.2"])
def test_a_compiled_submodule(tmp_path, reference, prepare, images):
    torch.compiler.reset()
    places = {**PLACES, "images": images}
    losses, _, _ = fit(tmp_path, prepare=prepare, places=places)
    assert losses == pytest.approx(reference, rel=1e-6)
    # code that was compiled without the hook is used again, which must not pass unseen
    torch.compiler.reset()
    fit(tmp_path, prepare=prepare, plugged=False)
    if images == "encoder.2":
        with pytest.raises(UserError, match=r"called 0 times.*torch\.compiler\.reset\(\)"):
            fit(tmp_path, prepare=prepare, places=places)
    else:
        assert fit(tmp_path, prepare=prepare, places=places)[0] == losses


@pytest.mark.slow
@pytest.mark.parametrize("plugged", [False, True])
def test_a_compiled_model_compiles_the_hosts_step_once(tmp_path, reference, plugged):
    graphs = []

    def backend(graph, inputs):
        if torch.is_grad_enabled():
            graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    torch.compiler.reset()
    losses, _, _ = fit(tmp_path, Steps.Batch, compiled=backend, plugged=plugged)
    if plugged:
        assert losses == pytest.approx(reference, rel=1e-6)
    with_encoder = [targets for targets in graphs if torch.nn.functional.layer_norm in targets]
    assert len(with_encoder) == 1


def test_deepcopy_and_pickle_give_plugged_models_that_train(tmp_path, reference):
    _, model, _ = fit(tmp_path)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again).__name__ == "HardNegativeCaptioner"
        assert isinstance(again, Captioner)
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)
            assert again.state_dict()[name] is not value
        run = trainer(tmp_path, max_steps=1)
        run.fit(again, loader())
        assert run.callback_metrics["train/alignment_loss"] > 0
    assert type(copy.deepcopy(model)) is type(model)
    assert copy.deepcopy(model).hard_negatives is not model.hard_negatives
    torch.save(model, tmp_path / "model.pt")
    assert isinstance(torch.load(tmp_path / "model.pt", weights_only=False), Captioner)


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("bf16-mixed", 0.03), ("16-mixed", 0.03), ("bf16-true", 0.05), ("64-true", 1e-5)],
)
@pytest.mark.parametrize("heads", [{}, {"image_width": 8, "report_width": 8, "width": 4}], ids=["", "heads"])
def test_precisions(tmp_path, precision, tolerance, heads):
    reference, *_ = fit(tmp_path, own=objective(**heads))
    losses, model, run = fit(tmp_path, own=objective(**heads), precision=precision)
    assert {p.dtype for p in model.hard_negatives.parameters()} == {torch.float32}
    assert losses == pytest.approx(reference, rel=tolerance)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert all(math.isfinite(value) for value in run.callback_metrics.values())


def test_a_foreign_host_matches_words_with_patches(tmp_path):
    own = RelationEnhancedObjective(
        image_width=8, report_width=8, width=6, word_region_width=4, schedule=Constant(hardness=0.5)
    )
    losses, model, run = fit(tmp_path, own=own)
    assert all(math.isfinite(loss) for loss in losses)
    assert run.callback_metrics["train/local_loss"] > 0
    before = RelationEnhancedObjective(image_width=8, report_width=8, width=6, word_region_width=4).state_dict()
    assert model.hard_negatives.state_dict().keys() == before.keys()
    bare = fit(tmp_path, own=objective(image_width=8, report_width=8, width=6))[0]
    assert losses != bare


@pytest.mark.parametrize("statement_weight", [0.0, 1.0])
def test_a_foreign_host_grounds_what_is_known(tmp_path, statement_weight):
    knowledge = PhantomKnowledge()
    own = GroundedKnowledgeObjective(
        image_width=8,
        report_width=8,
        width=6,
        heads=2,
        knowledge=knowledge,
        grounding=functools.partial(Grounding, width=4, heads=2, regions=functools.partial(Learned, count=3)),
        statement_weight=statement_weight,
        schedule=Constant(hardness=0.5),
    )
    count = len(knowledge.prompts)
    facts = torch.randint(-1, 2, (16, count), generator=torch.Generator().manual_seed(0))
    places = {**PLACES, "facts": lambda batch, outputs: facts[[int(name.split()[1]) for name in batch["id"]]]}
    if statement_weight:
        places["statements"] = lambda batch, outputs: torch.ones(2, count, 8)
    losses, model, run = fit(tmp_path, own=own, places=places)
    assert all(math.isfinite(loss) for loss in losses)
    for name in ("pair_matching_loss", "entity_loss", *(["statement_loss"] if statement_weight else [])):
        assert run.callback_metrics[f"train/{name}"] > 0
    assert model.hard_negatives.state_dict().keys() == copy.deepcopy(own).state_dict().keys()


def test_gradient_checkpointing_runs_forward_again_and_is_counted_once(tmp_path, reference):
    class Saves(Captioner):
        def loss(self, batch):
            patches = checkpoint(self.encoder, batch["images"], use_reentrant=False)
            states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
            return (patches.mean(1) - states.mean(1)).square().mean()

    assert fit(tmp_path, Saves, places={**PLACES, "images": "encoder.2"})[0] == reference


def test_accumulation_and_clipping(tmp_path):
    _, model, run = fit(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.01)
    assert run.global_step == 4
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_averaged_weights(tmp_path, reference):
    losses, model, _ = fit(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)])
    assert losses == reference
    plain = fit(tmp_path)[1]
    scale, averaged = plain.hard_negatives.log_scales, model.hard_negatives.log_scales
    assert 0 < (scale - averaged).abs() < (scale - math.log(1 / 0.07)).abs()
    swa = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1)
    _, model, run = fit(tmp_path, callbacks=[swa], max_epochs=3)
    assert swa.n_averaged == 3
    assert len({group["lr"] for group in run.optimizers[0].param_groups}) == 1
    assert type(swa._average_model) is type(model)


def test_the_objective_has_a_group_of_its_own_under_the_hosts_scheduler(tmp_path):
    class Groups(Captioner):
        def configure_optimizers(self):
            assert "hard_negatives" not in dict(self.named_children())
            weights = [p for p in self.parameters() if p.ndim > 1]
            others = [p for p in self.parameters() if p.ndim < 2]
            groups = [{"params": weights, "lr": 0.1}, {"params": others, "lr": 0.05}]
            optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def prepare(model):
        model.before = list(model._modules)

    _, model, run = fit(tmp_path, Groups, prepare=prepare)
    weights, others, own = run.optimizers[0].param_groups
    assert list(model.hard_negatives.parameters()) == own["params"]
    assert [group["lr"] for group in (weights, others, own)] == pytest.approx([0.1 / 9, 0.05 / 9, 0.1 / 9])
    assert [group["weight_decay"] for group in (weights, others, own)] == [0.1, 0.1, 0.0]
    assert list(model._modules) == [*model.before, "hard_negatives"]


def test_modules_keep_their_order_while_the_objective_hides():
    class Host(Captioner):
        def configure_optimizers(self):
            raise KeyError

    plugged = plug_in(Host, **PLACES)
    model = plugged()
    model.added = nn.Linear(2, 2)
    order = list(model._modules)
    with pytest.raises(KeyError):
        model.configure_optimizers()
    assert list(model._modules) == order == ["encoder", "decoder", "hard_negatives", "added"]


def test_a_host_without_an_optimizer_trains_nothing(tmp_path):
    class Without(Captioner):
        def configure_optimizers(self):
            return None

    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        _, model, run = fit(tmp_path, Without, max_epochs=1)
    assert "train/alignment_loss" in run.callback_metrics
    assert model.hard_negatives.log_scales.item() == pytest.approx(math.log(1 / 0.07))


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.mark.parametrize(
    "name", [name for name in FeaturePaths.__dataclass_fields__ if name not in ("images", "reports")]
)
def test_every_place_that_is_given_is_read(name):
    places = {"images": "batch.images", "reports": "batch.reports", name: "batch.given"}
    features = plug_in(Captioner(), **places)._plug.features
    assert {field: where for field, where in vars(features).items() if where is not None} == places
    assert features.read(name, Captioner(), {"given": [3]}, None, {}) == [3]
