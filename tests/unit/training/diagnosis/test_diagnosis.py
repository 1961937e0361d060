"""The diagnosis: figures against plain loops, each sign where it must warn and where not, and training unaffected."""

import csv
import warnings
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeMixin, HardNegativeObjective, PairEmbeddings
from hardneg_plugin.backbones.decoder import ReportDecoder
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import Arc, Released, Segment, harden_arc, harden_ascent
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import Alternating
from hardneg_plugin.objectives.schedule import Constant
from hardneg_plugin.training.diagnosis import Diagnosis, warning_signs
from hardneg_plugin.training.diagnosis.logger_output import BINS, DiagnosisOutput, LoggedStudy, log_diagnosis
from hardneg_plugin.training.diagnosis.measures import (
    EmbeddedSplit,
    ReportExchange,
    ValidationEmbeddings,
    closer_than_random,
    effective_dimensions,
    exchange_reports,
    hardening_of,
    mean_pairwise_cosine,
    other_studies,
    similarities,
)
from hardneg_plugin.training.diagnosis.texts import WrittenTexts, mean_report_loss

STUDIES = PhantomStudies(train=24, val=1, test=1, size=32).split("train")
SAMPLES = [STUDIES[i] for i in range(24)]
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
COLLATE = StudyCollator(TOKENIZER, 40)


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(rows, dim=-1)


def keys_of(labels):
    """Studies of their own, some of which share a label."""
    unknown = torch.full((len(labels),), -1)
    return torch.stack([torch.arange(len(labels)), unknown, unknown, torch.tensor(labels)], dim=1)


# ---- measures


def test_spread_is_that_of_the_plain_formulas():
    x = unit(7, 5)
    cosines = [float(x[i] @ x[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_pairwise_cosine(x) == pytest.approx(np.mean(cosines), abs=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.double().numpy().T))
    assert effective_dimensions(x) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def test_spread_at_its_ends():
    one = unit(1, 6).expand(30, 6)
    assert (mean_pairwise_cosine(one), effective_dimensions(one)) == (pytest.approx(1, abs=1e-5), 0)
    line = torch.linspace(-1, 1, 30)[:, None] * unit(1, 6)
    assert effective_dimensions(line) == pytest.approx(1)
    assert effective_dimensions(torch.cat([torch.eye(6), -torch.eye(6)])) == pytest.approx(6)


def test_each_study_gets_one_other_that_is_no_match():
    keys = keys_of([3, 3, -1, 5, 5, 5, -1, 8])
    index, valid = other_studies(keys)
    assert sorted(index.tolist()) == list(range(8))
    assert all(i != j for i, j in enumerate(index.tolist()))
    labels = keys[:, 3].tolist()
    assert valid.tolist() == [labels[i] == -1 or labels[i] != labels[j] for i, j in enumerate(index.tolist())]
    assert not other_studies(torch.full((1, 4), -1))[1].any()  # nobody but itself, and nobody knows who that is


def test_similarities_are_those_of_plain_loops():
    labels = [3, 3, -1, 5, 5, 5, -1, 8]
    studies = ValidationEmbeddings(unit(8, 4), unit(8, 4, seed=1), keys_of(labels))
    z, u = studies.images, studies.reports
    nearest = []
    for i in range(8):
        peers = [j for j in range(8) if j != i and (labels[i] == -1 or labels[i] != labels[j])]
        nearest.append(max(peers, key=lambda j, i=i: float(u[i] @ u[j])))
    measured = similarities(studies, hardening_of(HardNegativeObjective(hardening=Arc(margin=0.1)), 0.5))
    n = u[nearest]
    hardened = harden_arc(z, u, n, hardness=0.5, margin=0.1)
    torch.testing.assert_close(measured["positive"], torch.stack([z[i] @ u[i] for i in range(8)]))
    torch.testing.assert_close(measured["hard_negative"], torch.stack([z[i] @ n[i] for i in range(8)]))
    torch.testing.assert_close(measured["hardened"], torch.stack([z[i] @ hardened[i] for i in range(8)]))
    index, valid = other_studies(studies.keys)
    assert len(measured["random"]) == valid.sum()
    wins = [float(z[i] @ u[i] > z[i] @ u[j]) for i, j in enumerate(index.tolist()) if valid[i]]
    assert closer_than_random(studies) == (pytest.approx(np.mean(wins)), len(wins))
    assert closer_than_random(ValidationEmbeddings(z, z[:1].expand(8, 4), studies.keys))[0] == 0.5  # ties


def test_studies_without_any_negative_are_left_out():
    studies = ValidationEmbeddings(unit(5, 4), unit(5, 4, seed=1), keys_of([2] * 5))
    measured = similarities(studies, hardening_of(HardNegativeObjective(), 0.5))
    assert {name: len(values) for name, values in measured.items()} == {
        "positive": 5,
        "random": 0,
        "hard_negative": 0,
        "hardened": 0,
    }


def test_a_split_is_hardened_as_training_does_but_leaves_nothing_behind():
    z, u, n = unit(6, 4), unit(6, 4, seed=1), unit(6, 4, seed=2)
    assert hardening_of(HardNegativeObjective(hardening=None), 0.5) is None
    assert hardening_of(HardNegativeObjective(hardening=Released()), 0.5) is None
    segment = hardening_of(HardNegativeObjective(hardening=Segment()), 0.5)(z, u, n)
    torch.testing.assert_close(segment, Segment()(z, u, n, 0.5))
    alternating = Alternating(step_size=0.2, steps=2, margin=0.1)
    hardened = hardening_of(HardNegativeObjective(hardening=alternating), 0.5)(z, u, n)
    torch.testing.assert_close(hardened, harden_ascent(z, u, n, hardness=0.5, margin=0.1, steps=2, step_size=0.2))
    assert len(alternating.bank) == 0


class Scripted(ReportDecoder):
    """States as a weighted sum of image and tokens."""

    def __init__(self, vocab_size, patch_width, of_image, of_tokens):
        super().__init__()
        self.vocab_size, self.width, self.of_image, self.of_tokens = vocab_size, patch_width, of_image, of_tokens
        generator = torch.Generator().manual_seed(0)
        self.embeddings = torch.randn(vocab_size + 1, self.width, generator=generator)
        self.outputs = torch.randn(vocab_size + 1, self.width, generator=generator)

    def states(self, patches, tokens, *, patch_mask=None):
        return self.of_image * patches.mean(1, keepdim=True) + self.text_states(tokens)

    def text_states(self, tokens):
        return self.of_tokens * self.embeddings[tokens[:, :-1]]

    @property
    def word_embedding(self):
        return torch.nn.Embedding.from_pretrained(self.embeddings)

    def word_embeddings(self, tokens):
        return self.embeddings[tokens[:, 1:]]

    def classify(self, states):
        return (states @ self.outputs.T).log_softmax(-1)

    def attention_maps(self, patches, tokens, *, patch_mask=None):
        raise NotImplementedError

    def search(self, patches, decoding, *, patch_mask=None):
        raise NotImplementedError


def exchanged(of_image, of_tokens, feature="decoder_states"):
    """Reports exchanged where images are embedded as what of them the report states would log_diagnosis."""
    model = HardNegativeReportGenerator(
        visual=VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        backbone=partial(Scripted, of_image=of_image, of_tokens=of_tokens),
        tokenizer=TOKENIZER,
        optimizer=torch.optim.SGD,
        report_feature=feature,
        hard_negatives=HardNegativeObjective,
    ).eval()
    batch = COLLATE(SAMPLES[:12])
    images = torch.randn(12, 1, model.visual.width, generator=torch.Generator().manual_seed(1))
    states = model.decoder.states(images, batch["tokens"])
    mask = batch["token_mask"][:, 1:, None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    visual = VisualFeatures(images, torch.ones(12, 1).bool(), pooled, (1, 1))
    outputs = {"states": states, "visual": visual}
    return exchange_reports(model, batch, outputs)


def test_tokens_that_follow_from_tokens_alone_ignore_the_image():
    assert exchanged(0, 1).image_sensitivity == 0
    assert "0.00%" in warning_signs.ignores_image(exchanged(0, 1))
    healthy = exchanged(1, 1)
    assert healthy.image_sensitivity > 0.05
    assert warning_signs.ignores_image(healthy) is None


def test_states_that_carry_the_image_ignore_the_text():
    leaking = exchanged(1, 0.01)
    assert abs(leaking.text_gap) < 0.01 < 0.5 < leaking.study_gap
    assert "report_feature=word_embeddings or text_only" in warning_signs.ignores_text(leaking)
    healthy = exchanged(0.2, 1)
    assert healthy.text_gap > 0.25 * healthy.study_gap > 0.1
    assert warning_signs.ignores_text(healthy) is None


def test_without_image_in_the_report_the_text_is_all_there_is():
    measured = exchanged(1, 0.01, feature="text_only")
    assert measured.text_gap == pytest.approx(measured.study_gap, abs=1e-6)


# ---- signs


@pytest.mark.parametrize(
    ("sign", "ill", "well"),
    [
        ("few_negatives", (0.4, 0.1), (0.5, 0.5)),
        ("few_negatives", (1.0, 0.6), (1.0, 0.16)),
        ("hardening_ineffective", (0.3, 0.80, 0.78, 0.784, 1.0), (0.3, 0.80, 0.70, 0.73, 1.0)),
        ("hardening_ineffective", (0.9, 0.50, 0.60, 0.60, 0.9), (0.2, 0.50, 0.60, 0.60, 0.9)),  # not yet hard
        (
            "hardening_ineffective",
            (0.9, 0.50, 0.60, 0.60, 0.5),
            (0.9, 0.50, 0.00, 0.00, 0.0),
        ),  # no negatives: the other sign warns
        ("equal_embeddings", ("images", 200, 0.99, 8.0), ("images", 200, 0.9, 2.2)),
        ("equal_embeddings", ("reports", 200, 0.5, 1.04), ("reports", 19, 1.0, 0.0)),
        ("at_chance", (0.5, 100), (0.6, 100)),
        ("at_chance", (0.2, 20), (0.2, 19)),
        ("ignores_text", (ReportExchange(0.1, 12, 0.01, 0.3),), (ReportExchange(0.1, 12, 0.04, 0.3),)),
        (
            "ignores_text",
            (ReportExchange(0.1, 4, -0.1, 0.3),),
            (ReportExchange(0.1, 12, 0.0, 0.04),),
        ),  # nothing learned yet
        ("ignores_text", (ReportExchange(0.1, 4, 0.0, 0.3),), (ReportExchange(0.1, 12),)),  # a bare host
        ("ignores_image", (ReportExchange(0.004, 4),), (ReportExchange(0.0, 3),)),
        ("ignores_image", (ReportExchange(0.0, 4),), (ReportExchange(0.005, 4),)),
        ("loses_likelihood", (2.2, 2.0), (2.1, 2.0)),
        (
            "unusual_length",
            (WrittenTexts(20, 7.9, (8.0, 12.0), 0.0, 0.0),),
            (WrittenTexts(20, 8.0, (8.0, 12.0), 1.0, 0.0),),
        ),
        (
            "unusual_length",
            (WrittenTexts(20, 12.1, (8.0, 12.0), 0.0, 0.0),),
            (WrittenTexts(19, 99.0, (8.0, 12.0), 0.0, 0.0),),
        ),
        (
            "repeats_itself",
            (WrittenTexts(20, 9.0, (8.0, 12.0), 0.2, 0.05),),
            (WrittenTexts(20, 9.0, (8.0, 12.0), 0.2, 0.1),),
        ),
        (
            "repeats_itself",
            (WrittenTexts(20, 9.0, (8.0, 12.0), 1.0, 0.0),),
            (WrittenTexts(19, 9.0, (8.0, 12.0), 1.0, 0.0),),
        ),
    ],
)
def test_signs_warn_where_something_is_wrong_and_nowhere_else(sign, ill, well):
    message = getattr(warning_signs, sign)(*ill)
    assert message
    assert any(character.isdigit() for character in message)
    assert getattr(warning_signs, sign)(*well) is None


def test_warnings_are_issued_once_after_some_in_a_row_and_not_again_by_a_resumed_run():
    tracker = warning_signs.WarningTracker()
    messages = [tracker.due({"hardening_ineffective": message}) for message in ("a", "b", None, "c", "d")]
    assert messages == [{}] * 5
    resumed = warning_signs.WarningTracker()
    resumed.load_state_dict(tracker.state_dict())
    assert resumed.due({"hardening_ineffective": "e"}) == {"hardening_ineffective": "e"}
    assert resumed.due({"hardening_ineffective": "f", "few_negatives": "g"}) == {"few_negatives": "g"}
    again = warning_signs.WarningTracker()
    again.load_state_dict(resumed.state_dict())
    assert again.due({"hardening_ineffective": "h", "few_negatives": "i"}) == {}


def record(reference, generated, **measured):
    return {"reference": reference, "generated": generated, **({"measured": measured} if measured else {})}


def test_texts_are_measured_as_by_plain_loops():
    written = ["a b c d e a b c d e", "a b c", "", "a a a a a a", "a b c d"]
    references = [" ".join("abcdefghijk"[:length]) for length in (4, 6, 8, 9, 11)]
    seen = again = 0
    for text in written:
        words, before = text.split(), []
        for start in range(len(words) - 3):
            sequence = words[start : start + 4]
            seen, again = seen + 1, again + (sequence in before)
            before.append(sequence)
    texts = WrittenTexts.of([record(*pair) for pair in zip(references, written, strict=True)])
    assert (texts.studies, texts.length) == (5, (10 + 3 + 0 + 6 + 4) / 5)
    assert texts.usual == pytest.approx((4.8, 10.2))
    assert texts.repeated == again / seen > 0
    assert texts.repeated_in_references == 0


def test_the_report_loss_is_that_of_all_tokens():
    records = [record("a", "a", loss=6.0, tokens=4.0), record("a", "a"), record("a", "a", loss=3.0, tokens=1.0)]
    assert mean_report_loss(records) == pytest.approx(9 / 5)
    assert mean_report_loss([record("a", "a")]) is None


def test_likelihood_lost_since_an_earlier_run_is_warned_of():
    before = Diagnosis()
    figures, _ = before._of_texts([record("a", "a", loss=6.0, tokens=4.0)])
    assert figures["loss_above_lowest"] == 0
    resumed = Diagnosis()
    resumed.load_state_dict(before.state_dict())
    figures, signs = resumed._of_texts([record("a", "a", loss=8.0, tokens=4.0)])
    assert figures["loss_above_lowest"] == pytest.approx(0.5)
    assert "2.000 nats per token, and was 1.500" in signs["loses_likelihood"]


# ---- loggers

STUDY = LoggedStudy("a/1", np.arange(12, dtype=np.uint8).reshape(3, 4), "no <unk> seen", "heart normal")
SHOWN = DiagnosisOutput(
    [STUDY], {"positive": torch.tensor([0.11, 0.12, -0.9]), "random": torch.tensor([])}, {"text_gap": 0.25}
)


def test_tensorboard_gets_pictures_texts_histograms_and_figures(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    log_diagnosis([logger], SHOWN, 7)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    tags = events.Tags()
    assert (tags["images"], tags["histograms"]) == (["diagnosis/a/1"], ["diagnosis/similarity/positive"])
    (image,) = events.Images("diagnosis/a/1")
    assert (image.step, image.height, image.width) == (7, 3, 4)
    assert events.Histograms("diagnosis/similarity/positive")[0].histogram_value.num == 3
    (text,) = events.Tensors("diagnosis/a/1/text_summary")
    assert b"no &lt;unk&gt; seen" in text.tensor_proto.string_val[0]
    assert events.Scalars("diagnosis/text_gap")[0].value == 0.25


class WandbStandIn(WandbLogger):
    """Lightning's logger over a run that keeps what it is given."""

    def __init__(self):
        self._prefix, self._wandb_init, self.logged = "", {}, {}

    experiment = property(lambda self: SimpleNamespace(log=self.logged.update))


def test_wandb_gets_images_a_table_and_histograms(monkeypatch):
    class Image:
        def __init__(self, data_or_path, mode=None, caption=None, grouping=None):
            self.size, self.caption = data_or_path.size, caption

    class Table:
        def __init__(self, columns=None, data=None, rows=None, dataframe=None):
            self.columns, self.data = columns, data

    class Histogram:
        def __init__(self, sequence=None, np_histogram=None, num_bins=64):
            self.counts, self.edges = np_histogram

    module: Any = ModuleType("wandb")
    module.Image, module.Table, module.Histogram = Image, Table, Histogram
    monkeypatch.setitem(__import__("sys").modules, "wandb", module)
    logger = WandbStandIn()
    log_diagnosis([logger], SHOWN, 7)
    (image,) = logger.logged["diagnosis/studies"]
    assert (image.size, image.caption) == ((4, 3), "a/1: heart normal")
    table = logger.logged["diagnosis/reports"]
    assert (table.columns, table.data) == (
        ["study", "reference", "generated"],
        [["a/1", "no <unk> seen", "heart normal"]],
    )
    histogram = logger.logged["diagnosis/similarity/positive"]
    assert (histogram.counts.sum(), len(histogram.edges)) == (3, len(BINS))
    assert (logger.logged["diagnosis/text_gap"], logger.logged["trainer/global_step"]) == (0.25, 7)


class MLFlowStandIn(MLFlowLogger):
    """Lightning's logger over a client that keeps the artifacts."""

    def __init__(self):
        self.artifacts, self.metrics = {}, {}

    run_id = property(lambda self: "run")
    experiment = property(lambda self: self)

    def log_metrics(self, metrics, step=None):
        self.metrics.update(metrics)

    def log_text(self, run_id, text, artifact_file):
        self.artifacts[run_id, artifact_file] = text

    def log_image(self, run_id, image, artifact_file=None, key=None, step=None, timestamp=None, synchronous=None):
        self.artifacts[run_id, artifact_file] = image.size


def test_mlflow_gets_artifacts():
    logger = MLFlowStandIn()
    log_diagnosis([logger], SHOWN, 7)
    assert logger.metrics == {"diagnosis/text_gap": 0.25}
    assert logger.artifacts["run", "diagnosis/studies/1.png"] == (4, 3)
    assert "**generated** heart normal" in logger.artifacts["run", "diagnosis/reports/step-00000007.md"]
    table = list(csv.DictReader(logger.artifacts["run", "diagnosis/similarity/step-00000007.csv"].splitlines()))
    assert {row["from"]: row["positive"] for row in table if row["positive"] != "0"} == {"-0.900": "1", "0.100": "2"}


# ---- in training


def model_of(seed=0, **more):
    """A tiny generator with hard negatives; `hard_negatives=None`: a bare host."""
    torch.manual_seed(seed)
    arguments = {
        "visual": VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        "backbone": partial(TransformerDecoder, width=32, heads=2, layers=1),
        "tokenizer": TOKENIZER,
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "decoding": Decoding(max_length=4, beam_size=1),
    }
    more = {"hard_negatives": partial(HardNegativeObjective, width=8), **more}
    if more["hard_negatives"] is None:
        return ReportGenerator(**arguments)
    return HardNegativeReportGenerator(**arguments, **more)


def fit(model, callbacks, epochs=1, samples=SAMPLES, logger=False, **arguments):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **arguments,
    )
    loader = DataLoader(samples, batch_size=12, collate_fn=COLLATE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, loader, loader)
    return trainer, [str(warning.message) for warning in caught]


def kinds(messages):
    beginnings = {
        "Hard negatives were found": "few_negatives",
        "At hardness": "hardening_ineffective",
        "The embeddings of the images": "equal_images",
        "The embeddings of the reports": "equal_reports",
        "The alignment is at chance": "at_chance",
        "The alignment ignores the text": "ignores_text",
        "The generated text ignores the image": "ignores_image",
        "The validation reports were likelier": "loses_likelihood",
    }
    return sorted(kind for text, kind in beginnings.items() for message in messages if message.startswith(text))


def test_training_is_the_same_with_and_without():
    def trained(callbacks):
        model = model_of()
        torch.manual_seed(1)
        fit(model, callbacks, epochs=2)
        return model.state_dict(), torch.get_rng_state()

    (with_it, state), (without, other_state) = trained([Diagnosis()]), trained([])
    assert all(torch.equal(with_it[name], without[name]) for name in without)
    assert torch.equal(state, other_state)


@pytest.mark.parametrize("hard_negatives", [None, partial(HardNegativeObjective, width=8)], ids=["host", "plugged"])
def test_shows_the_same_studies_each_time_it_is_due(tmp_path, hard_negatives):
    logger = TensorBoardLogger(tmp_path)
    model = model_of(hard_negatives=hard_negatives)
    fit(model, [Diagnosis(every_n_epochs=2, studies=3)], epochs=4, logger=logger, num_sanity_val_steps=1)
    events = EventAccumulator(logger.log_dir).Reload()
    shown = events.Tags()["images"]
    # 24 studies in two batches of 12: rows 4 of the first, 0 and 8 of the second
    assert sorted(shown) == sorted(f"diagnosis/{SAMPLES[row]['id']}" for row in (4, 12, 20))
    assert [[event.step for event in events.Images(tag)] for tag in shown] == [[4, 8]] * 3
    views = next(sample["images"] for sample in SAMPLES if f"diagnosis/{sample['id']}" == shown[0])
    assert events.Images(shown[0])[0].width == len(views) * 32
    generated = {record["id"]: record["generated"] for record in model.scores_of("val").records()}
    text = events.Tensors(f"{shown[0]}/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.endswith(f"**generated** {generated[shown[0].removeprefix('diagnosis/')]}")
    similarity = [] if hard_negatives is None else ["hard_negative", "hardened", "positive", "random"]
    assert sorted(events.Tags()["histograms"]) == [f"diagnosis/similarity/{name}" for name in similarity]
    assert "diagnosis/image_sensitivity" in events.Tags()["scalars"]


def test_black_images_are_warned_of_once():
    blind = [{**sample, "images": torch.zeros_like(sample["images"])} for sample in SAMPLES]
    always = partial(HardNegativeObjective, width=8, schedule=Constant())
    _, messages = fit(model_of(hard_negatives=always), [Diagnosis()], epochs=4, samples=blind)
    assert {"equal_images", "ignores_image", "at_chance"} <= set(kinds(messages))
    assert len(kinds(messages)) == len(set(kinds(messages)))
    # a bare host has no embeddings to tell of
    _, messages = fit(model_of(hard_negatives=None), [Diagnosis()], epochs=3, samples=blind)
    assert kinds(messages) == ["ignores_image"]


def test_no_warning_of_embeddings_during_the_warm_up():
    blind = [{**sample, "images": torch.zeros_like(sample["images"])} for sample in SAMPLES]
    later = partial(HardNegativeObjective, width=8, schedule=Constant(unit="epoch", warmup=9))
    _, messages = fit(model_of(hard_negatives=later), [Diagnosis()], epochs=3, samples=blind)
    assert kinds(messages) == ["ignores_image"]


class Host(BoringModel):
    def training_step(self, batch, batch_idx):
        return {"loss": self.layer(batch).square().mean(), "features": self.layer(batch)}


class PluggedHost(HardNegativeMixin, Host):
    """Any host, whose validation says nothing to the diagnosis."""

    patient_ids = None

    def embed(self, batch, outputs):
        return PairEmbeddings(images=outputs["features"], reports=batch[:, :2], patient_ids=self.patient_ids)

    def train_dataloader(self):
        return DataLoader(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)), batch_size=8)

    val_dataloader = None


def fit_host(hardening, epochs, diagnosis, patient_ids=None, **arguments):
    torch.manual_seed(0)
    model = PluggedHost(hard_negatives=HardNegativeObjective(hardening=hardening, schedule=Constant(hardness=0.5)))
    model.patient_ids = patient_ids
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[diagnosis],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )
        trainer.fit(model)
    return kinds([str(warning.message) for warning in caught])


def test_any_host_of_the_plug_in_hears_of_negatives_and_hardening():
    assert fit_host(Arc(), 4, Diagnosis()) == []
    assert fit_host(Arc(), 4, Diagnosis(), patient_ids=["one"] * 8) == ["few_negatives"]
    held_back = Diagnosis()  # by a margin that no negative is behind
    assert fit_host(Arc(margin=1.99), 2, held_back) == []
    resumed = Diagnosis()
    resumed.load_state_dict(held_back.state_dict())
    assert fit_host(Arc(margin=1.99), 2, resumed) == ["hardening_ineffective"]


def test_runs_beside_a_model_that_it_does_not_know():
    pl.Trainer(
        fast_dev_run=True, accelerator="cpu", callbacks=[Diagnosis()], enable_progress_bar=False, logger=False
    ).fit(BoringModel())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_runs_without_loggers_in_a_fast_dev_run(precision):
    callback = Diagnosis()
    fit(model_of(), [callback], fast_dev_run=True, precision=precision)
    assert callback._exchange.pairs > 0


def test_other_loggers_get_the_figures_and_other_validations_are_not_looked_at(tmp_path):
    callback = Diagnosis()
    trainer, _ = fit(model_of(), [callback], logger=CSVLogger(tmp_path))
    rows = list(csv.DictReader((tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()))
    (measured,) = [row for row in rows if row["diagnosis/image_sensitivity"]]
    assert 0 <= float(measured["diagnosis/positive_closer_than_random"]) <= 1
    trainer.validate(model_of(), DataLoader(SAMPLES, batch_size=12, collate_fn=COLLATE), verbose=False)
    assert callback._pictures == {}


@pytest.mark.parametrize("setting", [{"every_n_epochs": 0}, {"studies": -1}], ids=["epochs", "studies"])
def test_settings_are_checked(setting):
    with pytest.raises(UserError, match=f"callbacks.diagnosis.{next(iter(setting))}"):
        Diagnosis(**setting)


def test_studies_whose_embeddings_are_not_finite_are_left_out():
    images, reports = (
        nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(s)), dim=-1) for s in (0, 1)
    )
    images[1, 0], reports[3] = torch.nan, 0.0
    keys = torch.arange(5)[:, None].expand(-1, 4)
    split = EmbeddedSplit()
    split.update([str(number) for number in range(5)], images, reports, keys)
    studies = split.studies()
    assert studies.keys[:, 0].tolist() == [0, 2, 4]
    assert torch.equal(studies.images, images[[0, 2, 4]])
    assert all(values.isfinite().all() for values in similarities(studies, None).values())
