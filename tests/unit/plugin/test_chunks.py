"""A step in chunks against the unsplit step: gradients, dropout, memory, forwards, logs, and GradCache as an oracle."""

import importlib.util
import sys
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchmetrics import SumMetric

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings, plug_in
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.objectives import Bank, Hinge, InfoNCE, Queue, RelationEnhancedObjective, Weights
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress
from hardneg_plugin.plugin.chunks import HostStep, joined, run_parts
from hardneg_plugin.plugin.joined_features import join_pairs

sys.path.append(str(Path(__file__).parent))
from plugged_hosts import PLACES, Captioner, loader, trainer

ROOT = Path(__file__).parents[3]
CHUNKS = (2, 3, 4, 8)


def objective(kind=HardNegativeObjective, **options):
    torch.manual_seed(1)
    options = {
        "schedule": Constant(hardness=0.5),
        "separation": Hinge(margin=0.0),
        "weights": Weights(0.7, 0.5, 0.3),
        **options,
    }
    return kind(image_width=8, report_width=8, width=4, **options)


class Tokens(Captioner):
    """Returns a mapping; its loss is a mean over tokens."""

    def training_step(self, batch, batch_idx):
        states = self.decoder["norm"](self.decoder["words"](batch["tokens"]))
        patches = self.encoder(batch["images"])
        mask = batch["mask"]
        losses = (states - patches.mean(1, keepdim=True)).square().mean(2)
        self.log("own/loss", (losses * mask).sum() / mask.sum(), batch_size=len(mask))
        return {"loss": (losses * mask).sum() / mask.sum(), "patches": patches, "states": states, "tokens": mask.sum(1)}


class MixedIn(HardNegativeMixin, Tokens):
    def embed(self, batch, outputs):
        return PairEmbeddings(
            images=outputs["patches"].mean(1),
            reports=masked_mean(outputs["states"], batch["mask"]),
            study_ids=batch["id"],
            words=outputs["states"],
            word_mask=batch["mask"],
            regions=outputs["patches"],
        )

    def chunk_weight(self, batch, outputs):
        return outputs["tokens"].sum()


class Checkpointed(Tokens):
    """With activation checkpointing of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        layers = self.encoder
        self.encoder = Again(layers)


class Again(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, inputs):
        return checkpoint(self.layers, inputs, use_reentrant=False)


class Encodes(HardNegativeMixin, Captioner):
    """Encodes once more in `embed`, which is a part of what is computed again."""

    def embed(self, batch, outputs):
        return PairEmbeddings(self.encoder(batch["images"]).mean(1), self.decoder["words"](batch["tokens"]).mean(1))


HOSTS = {
    "plug_in, mask": lambda chunks: plug_in(Captioner(dropout=0.0), objective(), **PLACES, chunks=chunks),
    "plug_in, tokens": lambda chunks: plug_in(
        Tokens(dropout=0.0), objective(), **PLACES, chunks=chunks, chunk_weight="batch.mask"
    ),
    "plug_in, checkpointing": lambda chunks: plug_in(
        Checkpointed(dropout=0.0), objective(), **PLACES, chunks=chunks, chunk_weight="outputs.tokens"
    ),
    "plug_in, words": lambda chunks: plug_in(
        Captioner(dropout=0.0), objective(RelationEnhancedObjective), **PLACES, chunks=chunks
    ),
    "mixin, mask and tokens": lambda chunks: MixedIn(dropout=0.0, hard_negatives=objective(), chunks=chunks),
    "mixin, words": lambda chunks: MixedIn(
        dropout=0.0, hard_negatives=objective(RelationEnhancedObjective), chunks=chunks
    ),
    "mixin, encodes": lambda chunks: Encodes(dropout=0.0, hard_negatives=objective(), chunks=chunks),
}


def made(name, chunks):
    torch.manual_seed(0)
    return outside_training(HOSTS[name](chunks))


def outside_training(model):
    model._progress = lambda: TrainingProgress(step=3, epoch=0, fraction=0.3)
    model._is_outside = True
    return model


@pytest.fixture(autouse=True)
def without_trainer(monkeypatch):
    """Modules without a trainer log nothing, below the plug-in."""
    own = pl.LightningModule.log

    def log(self, *args, **options):
        return None if hasattr(self, "_is_outside") else own(self, *args, **options)

    monkeypatch.setattr(pl.LightningModule, "log", log)


def batch_of(studies=8):
    return next(iter(loader(studies, studies)))


@pytest.mark.parametrize("chunks", [None, 2])
def test_a_step_may_be_called_by_keywords(chunks):
    named, placed = (made("mixin, mask and tokens", chunks) for _ in range(2))
    named_loss = named.training_step(batch_idx=0, batch=batch_of())["loss"]
    assert torch.equal(named_loss, placed.training_step(batch_of(), 0)["loss"])


def gradients(model, batch):
    loss = model.training_step(batch, 0)
    loss = loss["loss"] if isinstance(loss, dict) else loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", HOSTS)
def test_the_gradient_is_that_of_the_unsplit_step(name):
    expected_loss, expected = gradients(made(name, 1), batch_of())
    assert len(expected) > 4
    for chunks in CHUNKS:
        loss, found = gradients(made(name, chunks), batch_of())
        torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=0)
        assert found.keys() == expected.keys()
        for key, gradient in found.items():
            torch.testing.assert_close(gradient, expected[key], atol=1e-5, rtol=0, msg=lambda m, k=key: f"{k}: {m}")


def test_a_mean_over_tokens_needs_their_number_as_weight():
    batch = batch_of()
    batch["mask"][:3, 1:] = False  # the first part has the shortest reports
    unsplit, _ = gradients(made("plug_in, tokens", 1), batch)
    by_tokens, _ = gradients(made("plug_in, tokens", 3), batch)
    torch.manual_seed(0)
    model = plug_in(Tokens(dropout=0.0), objective(), **PLACES, chunks=3)
    by_studies, _ = gradients(outside_training(model), batch)
    assert abs(by_tokens - unsplit) < 1e-5
    assert abs(by_studies - unsplit) > 1e-3


def test_dropout_is_drawn_again_as_it_was():
    """Against the parts written out by hand, without checkpointing, from the same seed."""
    model, plain = Captioner(dropout=0.3), Captioner(dropout=0.3)
    plain.load_state_dict(model.state_dict())
    plug_in(outside_training(model), objective(), **PLACES, chunks=3)
    batch = batch_of()
    torch.manual_seed(5)
    _, found = gradients(model, batch)
    torch.manual_seed(5)
    losses, images, reports = [], [], []
    for rows in (slice(0, 3), slice(3, 6), slice(6, 8)):
        patches = plain.encoder(batch["images"][rows])
        states = plain.decoder["norm"](plain.decoder["words"](batch["tokens"][rows]))
        losses.append((patches.mean(1) - states.mean(1)).square().mean() * len(patches) / 8)
        images.append(patches.mean(1))
        reports.append(masked_mean(states, batch["mask"][rows]))
    pairs = PairEmbeddings(torch.cat(images), torch.cat(reports), study_ids=batch["id"], texts=batch["tokens"])
    terms = objective()(pairs, TrainingProgress(step=3, epoch=0, fraction=0.3))
    (0.7 * sum(losses) + 0.5 * terms.alignment_loss + 0.3 * terms.separation_loss).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-5)


def alive():
    """The peak of bytes in tensors of a step, as the benchmark measures it."""
    spec = importlib.util.spec_from_file_location("chunks_benchmark", ROOT / "benchmarks" / "chunks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Alive()


class Deep(Captioner):
    def __init__(self, layers=8):
        super().__init__(dropout=0.0)
        self.encoder = nn.Sequential(
            nn.Linear(4, 8), *(layer for _ in range(layers) for layer in (nn.Linear(8, 8), nn.Tanh()))
        )


def test_memory_is_that_of_one_part_and_time_that_of_one_more_forward():
    studies = 32
    random = torch.Generator().manual_seed(0)
    batch = {
        "id": torch.arange(studies),
        "images": torch.randn(studies, 200, 4, generator=random),
        "tokens": torch.randint(9, (studies, 6), generator=random),
        "mask": torch.ones(studies, 6),
    }
    peaks, rows = {}, {}
    for chunks in (1, 2, 4, 8):
        torch.manual_seed(0)
        model = outside_training(plug_in(Deep(), objective(), **PLACES, chunks=chunks))
        seen = []
        model.encoder.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
        with alive() as made_in_step:
            gradients(model, batch)
        peaks[chunks], rows[chunks] = made_in_step.peak, sum(seen)
    assert rows == {1: studies, 2: 2 * studies, 4: 2 * studies, 8: 2 * studies}
    for chunks in (2, 4, 8):  # weights, gradients and pooled features do not get less
        assert peaks[chunks] < (1 / chunks + 0.05) * peaks[1], peaks


def test_nothing_is_kept_of_a_step():
    model = made("plug_in, mask", 4)
    features = []
    model.encoder.register_forward_hook(lambda module, inputs, output: features.append(weakref.ref(output)))
    loss = model.training_step(batch_of(), 0)
    assert not model._calls
    assert model._part_log is None
    loss.backward()
    assert not model._calls
    assert model._part_log is None
    assert len(features) == 8
    del loss
    assert not any(feature() is not None for feature in features)


class Logs(Captioner):
    """Logs in every way, with a batch norm and a metric."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.norm, self.metric = nn.BatchNorm1d(4), SumMetric()

    def training_step(self, batch, batch_idx):
        patches = self.norm(batch["images"].flatten(0, 1)).unflatten(0, (-1, 5))
        loss = self.loss({**batch, "images": patches})
        self.metric(loss.detach())
        self.log("loss", loss, batch_size=len(patches), prog_bar=True)
        self.log_dict({"mean": float(len(patches)), "twice": loss.detach() * 2})
        self.log("count", float(len(patches)), reduce_fx="sum")
        self.log("most", float(len(patches)), reduce_fx="max")
        self.log("metric", self.metric, on_step=False, on_epoch=True)
        return loss


def test_logs_and_statistics_count_each_part_once(tmp_path):
    by_hand = Logs()
    model = plug_in(Logs(), objective(), **PLACES, chunks=3)
    model.load_state_dict({**by_hand.state_dict(), **model.hard_negatives.state_dict(prefix="hard_negatives.")})
    by_hand.log = lambda *args, **options: None
    batch = batch_of()
    losses = [
        by_hand.training_step({key: value[rows] for key, value in batch.items()}, 0).detach()
        for rows in (slice(0, 3), slice(3, 6), slice(6, 8))
    ]
    run = trainer(tmp_path, max_steps=1)
    with pytest.warns(UserWarning, match=r"chunks: 1 batch norms in training mode \(norm, ...\) take .* from a part"):
        run.fit(model, loader(8, 8))
    logged = run.callback_metrics
    expected = (3 * losses[0] + 3 * losses[1] + 2 * losses[2]) / 8
    torch.testing.assert_close(logged["loss"], expected)
    torch.testing.assert_close(logged["train/report_loss"], expected)
    torch.testing.assert_close(logged["twice"], 2 * expected)
    assert logged["mean"] == pytest.approx((9 + 9 + 4) / 8)
    assert logged["count"] == 8
    assert logged["most"] == 3
    torch.testing.assert_close(logged["metric"], sum(losses))
    for name, buffer in by_hand.norm.named_buffers():
        assert torch.equal(dict(model.norm.named_buffers())[name], buffer), name
    assert by_hand.norm.num_batches_tracked == 3


def test_outputs_reach_callbacks_as_those_of_one_batch(tmp_path):
    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.outputs = outputs

    keep = Keep()
    model = MixedIn(dropout=0.0, hard_negatives=objective(), chunks=3)
    trainer(tmp_path, max_steps=1, callbacks=[keep]).fit(model, loader(8, 8))
    assert keep.outputs["patches"].shape == (8, 5, 8)
    assert keep.outputs["tokens"].tolist() == batch_of()["mask"].sum(1).tolist()
    assert keep.outputs["loss"].ndim == 0


def test_autocast_is_restored(monkeypatch):
    """bf16 and dropout against parts that keep their activations: the same numbers."""

    def found():
        torch.manual_seed(0)
        model = outside_training(plug_in(Captioner(dropout=0.3), objective(), **PLACES, chunks=4))
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_step(batch_of(), 0)
        loss.backward()
        return [p.grad for p in model.parameters()]

    checkpointed = found()
    monkeypatch.setattr("hardneg_plugin.plugin.chunks.checkpoint", lambda run, *tensors, **options: run(*tensors))
    torch.testing.assert_close(checkpointed, found(), atol=0, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, pytest.param({"compiled": True}, marks=pytest.mark.slow)]
)
def test_a_training_is_that_of_unsplit_steps(tmp_path, options):
    options = dict(options)
    compiled = options.pop("compiled", False)
    weights = []
    for chunks in (1, 2):
        pl.seed_everything(3, verbose=False)
        model = plug_in(Captioner(dropout=0.0), objective(), **PLACES, chunks=chunks)
        run = trainer(tmp_path, **options)
        run.fit(torch.compile(model, backend="aot_eager") if compiled else model, loader(16, 4))
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=0)


def test_frozen_parts_and_features_without_gradient():
    def frozen(chunks):
        model = made("plug_in, mask", chunks)
        model.encoder.requires_grad_(False)
        return model

    _, expected = gradients(frozen(1), batch_of())
    _, found = gradients(frozen(4), batch_of())
    assert not any(name.startswith("encoder") for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=0)


def test_parts_without_a_loss_are_left_out():
    class Skips(Captioner):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            return None if self.skips(batch) else loss

    torch.manual_seed(0)
    model = outside_training(plug_in(Skips(dropout=0.0), objective(), **PLACES, chunks=4))
    plain = made("plug_in, mask", 1)
    plain.load_state_dict(model.state_dict())
    batch = batch_of()
    model.skips = lambda part: "study 2" in part["id"]
    _, found = gradients(model, batch)
    kept = [0, 1, 4, 5, 6, 7]
    _, expected = gradients(
        plain, {key: [value[i] for i in kept] if key == "id" else value[kept] for key, value in batch.items()}
    )
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=0)
    model.skips = lambda part: True
    assert model.training_step(batch, 0) is None


def test_statements_are_those_of_the_first_part_with_a_loss():
    class Statements(HardNegativeObjective):
        statement_texts = ("no effusion",)
        seen = ()

        def forward(self, pairs, progress, statements=None):
            self.seen += (statements,)
            terms = super().forward(pairs, progress)
            return replace(terms, alignment_loss=terms.alignment_loss + statements.sum())

    class Skips(Tokens):
        def training_step(self, batch, batch_idx):
            outputs = super().training_step(batch, batch_idx)
            return None if batch["id"][0] in self.skipped else outputs

    class States(HardNegativeMixin, Skips):
        asked, embed = (), MixedIn.embed

        def embed_statements(self, batch, outputs):
            self.asked += (batch["id"][0],)
            return outputs["states"].mean() * torch.ones(2, 1, 8)

    model = outside_training(States(hard_negatives=objective(Statements), chunks=4, dropout=0.0))
    for skipped, first in (((), "study 0"), (("study 0", "study 2"), "study 4")):
        model.skipped, model.asked = skipped, ()
        gradients(model, batch_of())
        assert model.asked == (first, first)  # in the forward, and once more in the backward
        assert model.hard_negatives.seen[-1].requires_grad


def test_more_chunks_than_studies_and_one_study():
    expected = gradients(made("plug_in, mask", 1), batch_of(3))
    found = gradients(made("plug_in, mask", 16), batch_of(3))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # as of whole steps above
    assert len(made("plug_in, mask", 16).training_step(batch_of(1), 0).shape) == 0


def test_features_of_other_studies_than_those_of_the_part_are_refused():
    model = outside_training(
        plug_in(Captioner(), objective(), **{**PLACES, "study_ids": None, "report_mask": None}, chunks=2)
    )
    whole = batch_of()
    model._plug.features.__dict__["images"] = lambda batch, outputs: model.encoder(whole["images"])
    model._plug.features.__dict__["reports"] = lambda batch, outputs: model.decoder["words"](whole["tokens"])
    model._plug.features.__dict__["texts"] = None
    with pytest.raises(UserError, match=r"expected features of \[4, 4\] studies .* of 8, but got \[8, 8\].*callable"):
        model.training_step(whole, 0)


@pytest.mark.parametrize("chunks", [0, -1, 1.5, True, "2"])
def test_chunks_are_a_positive_integer_or_a_callable(chunks):
    with pytest.raises(UserError, match="chunks: expected a positive integer"):
        plug_in(Captioner(), objective(), **PLACES, chunks=chunks)
    with pytest.raises(UserError, match="chunks: expected a positive integer"):
        MixedIn(hard_negatives=objective(), chunks=chunks)


def test_a_callable_splits_the_batch():
    def parts(batch):
        return [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 5), slice(5, 8))]

    torch.testing.assert_close(
        gradients(made("plug_in, mask", parts), batch_of()),
        gradients(made("plug_in, mask", 1), batch_of()),
        atol=1e-6,
        rtol=0,
    )


def test_chunks_are_kept_by_the_class_and_are_no_hyperparameter(tmp_path):
    model = MixedIn(width=8, hard_negatives=objective(), chunks=2)
    assert dict(model.hparams) == {"width": 8, "dropout": 0.2}
    plugged = plug_in(Captioner, objective(), **PLACES, chunks=2)
    assert plugged()._chunks == 2
    assert plugged(chunks=3)._chunks == 3
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    assert MixedIn.load_from_checkpoint(tmp_path / "model.ckpt", hard_negatives=objective())._chunks == 1


def test_losses_that_are_shares_of_the_batchs_are_added():
    """As with Hugging Face's `num_items_in_batch`."""
    model = nn.Linear(3, 4)
    inputs = torch.randn(5, 3)

    def step(part, index, again):
        outputs = model(part["x"])
        return HostStep(outputs, outputs.square().sum() / 5, PairEmbeddings(outputs, outputs))

    whole = joined(run_parts(step, {"x": inputs}, 3, model))
    torch.testing.assert_close(whole.loss, model(inputs).square().sum() / 5)
    torch.testing.assert_close(whole.pairs.images, model(inputs))


def test_words_of_parts_are_padded_and_masked():
    parts = [
        PairEmbeddings(
            torch.ones(n, 4), torch.ones(n, 4), study_ids=list(range(n)), words=torch.ones(n, w, 4), word_mask=mask
        )
        for n, w, mask in ((2, 3, torch.tensor([[True, True, False]] * 2)), (1, 5, None))
    ]
    whole = join_pairs(parts)
    assert whole.words.shape == (3, 5, 4)
    assert whole.word_mask.sum(1).tolist() == [2, 2, 5]
    assert whole.match_keys.has_study_ids


def test_gradcache_gives_the_same_gradient():
    """CachedMultipleNegativesRankingLoss of sentence-transformers, both directions, is InfoNCE over chunks."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5))

        def forward(self, features):
            return {**features, "sentence_embedding": self.layers(features["rows"])}

    class Host(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder = Encoder()

        def training_step(self, batch, batch_idx):
            return self.encoder.layers[0].weight.sum() * 0

    class Contrasts(HardNegativeMixin, Host):
        def embed(self, batch, outputs):
            images, reports = (
                self.encoder({"rows": batch[key]})["sentence_embedding"] for key in ("images", "reports")
            )
            return PairEmbeddings(images, reports)

    random = torch.Generator().manual_seed(4)
    batch = {key: torch.randn(10, 6, generator=random) for key in ("images", "reports")}
    oracle = SentenceTransformer(modules=[Host().encoder], device="cpu")
    loss = CachedMultipleNegativesRankingLoss(
        oracle,
        scale=10.0,
        mini_batch_size=3,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    value = loss([{"rows": batch["images"]}, {"rows": batch["reports"]}], torch.empty(0))
    value.backward()
    expected = [p.grad for p in oracle.parameters()]
    plain = HardNegativeObjective(
        alignment=InfoNCE(temperature=0.1, negative_weight=0.0), hardening=None, weights=Weights(1.0, 1.0, 0.0)
    )
    model = outside_training(Contrasts(hard_negatives=plain, chunks=4))
    found, _ = gradients(model, batch)
    torch.testing.assert_close(found, value.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close([p.grad for p in model.encoder.parameters()], expected, atol=1e-5, rtol=0)


class TestOneStudyPerDevice:
    def fit(self, tmp_path, batch_size=1, steps=10, **options):
        model = plug_in(Captioner(), objective(**options), **PLACES)
        trainer(tmp_path, max_steps=steps, max_epochs=1).fit(model, loader(16, batch_size))

    def test_is_told_with_what_to_do(self, tmp_path):
        with pytest.warns(
            UserWarning, match=r"No hard negative was found in 10 steps with 1 study per device.*chunks=N.*Queue"
        ):
            self.fit(tmp_path)

    @pytest.mark.parametrize(
        "options", [{"batch_size": 4}, {"negatives": Queue(size=8)}, {"negatives": Bank()}, {"steps": 9}]
    )
    def test_is_not_told_where_negatives_are_found_or_will_be(self, tmp_path, options):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="No hard negative")
            self.fit(tmp_path, **options)
