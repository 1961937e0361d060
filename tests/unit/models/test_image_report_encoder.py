"""Pre-training without a decoder: gradients, embeddings of texts, checkpoints, paired studies, and the diagnosis."""

import warnings
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.backbones.text import TextEncoder
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.grounding import Cells, Grounding
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.image_report_encoder import ImageReportEncoder
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.run_embedder import ModelEmbedder
from hardneg_plugin.objectives import GroundedKnowledgeObjective, Paired, RelationEnhancedObjective
from hardneg_plugin.objectives.schedule import Linear, TrainingProgress
from hardneg_plugin.training.diagnosis import Diagnosis

STUDIES = PhantomStudies(train=12, val=1, test=1, size=32).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
KNOWLEDGE = PhantomKnowledge()
LATE = TrainingProgress(fraction=0.9, epoch=9, step=90)

OBJECTIVES = {
    "info_nce": {"hard_negatives": partial(HardNegativeObjective, width=8)},
    "reclf": {"hard_negatives": partial(RelationEnhancedObjective, width=8, word_region_width=8)},
    "gk_mvlp": {
        "hard_negatives": partial(GroundedKnowledgeObjective, width=8, knowledge=KNOWLEDGE, entity_width=8),
        "grounding": partial(Grounding, knowledge=KNOWLEDGE, width=8, heads=2, regions=Cells(1, 1)),
    },
}


def parts():
    return {
        "visual": VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        "tokenizer": TOKENIZER,
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
    }


def encoder(objective="info_nce", **more):
    torch.manual_seed(0)
    text = partial(TextEncoder, width=16, heads=2, layers=1, feedforward_width=16)
    return ImageReportEncoder(**{**parts(), "text": text, **OBJECTIVES[objective], **more})


def collated(count=4, start=0):
    return StudyCollator(TOKENIZER, 100, KNOWLEDGE)([STUDIES[i] for i in range(start, start + count)])


def outputs_of(model, batch):
    return {"visual": model.encode_images(batch)}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_parameter_gets_a_gradient(objective):
    model = encoder(objective)
    outputs = outputs_of(model, collated())
    pairs, statements = model.embed(collated(), outputs), model.embed_statements(collated(), outputs)
    terms = model.hard_negatives(pairs, LATE, **({} if statements is None else {"statements": statements}))
    (terms.alignment_loss + terms.separation_loss).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.text.embedding.weight.grad.abs().sum() > 0
    assert next(model.visual.parameters()).grad.abs().sum() > 0


def fitted(model, folder, studies=range(8), **more):
    trainer = pl.Trainer(
        **{"max_epochs": 1, "callbacks": [], **more},
        accelerator="cpu",
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(
        [STUDIES[i] for i in studies], batch_size=4, collate_fn=StudyCollator(TOKENIZER, 100, KNOWLEDGE)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, loader, loader)
    return trainer


def test_trains_by_the_objective_alone(tmp_path):
    objective = partial(HardNegativeObjective, width=8, schedule=Linear(warmup=0))
    model = encoder(hard_negatives=objective)
    before = {name: value.clone() for name, value in model.named_parameters()}
    logged = fitted(model, tmp_path).callback_metrics
    assert logged["train/report_loss"] == 0
    expected = model.hard_negatives.weights.alignment * logged["train/alignment_loss"]
    torch.testing.assert_close(logged["loss"], expected)
    assert logged["loss"] > 0
    assert {"val/R@5", "val/peers_R@1"} <= logged.keys()
    moved = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"visual", "text", "hard_negatives"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_text_embeds_as_the_report_of_a_study(objective):
    model, batch = encoder(objective).eval(), collated()
    images, reports = model.embed_pairs(batch, model.encode_images(batch).pooled)
    texts = [STUDIES[i]["report"] for i in range(4)]
    torch.testing.assert_close(model.embed_texts(texts), reports)
    torch.testing.assert_close(model.embed_texts(texts[2:3]), reports[2:3])
    torch.testing.assert_close(reports.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(4))
    pairs = model.embed(batch, outputs_of(model, batch))
    for ours, theirs in zip(model.hard_negatives.project(pairs), (images, reports), strict=True):
        torch.testing.assert_close(ours, theirs)
    cut = StudyCollator(TOKENIZER, 6)([STUDIES[i] for i in range(4)])
    torch.testing.assert_close(model.embed_texts(texts, 6), model.embed_pairs(cut, model.encode_images(cut).pooled)[1])


def test_what_an_objective_asks_for_is_there():
    model = encoder("gk_mvlp").eval()
    pairs = model.embed(collated(), outputs_of(model, collated()))
    statements, texts = (
        model.embed_statements(collated(), outputs_of(model, collated())),
        model.hard_negatives.statement_texts,
    )
    assert statements.shape == (2, len(KNOWLEDGE.prompts), 16)
    tokens, mask = model.tokenize([texts[3]])
    torch.testing.assert_close(statements.flatten(0, 1)[3], masked_mean(model.encode_reports(tokens), mask[:, 1:])[0])
    assert torch.equal(pairs.facts, collated()["facts"])
    assert pairs.entities.shape == (4, len(KNOWLEDGE.prompts), 8)
    assert pairs.regions.shape[:2] == pairs.region_mask.shape
    assert pairs.words.shape[:2] == pairs.word_mask.shape


def test_mined_studies_are_embedded_as_studies_of_their_own():
    model = encoder(hard_negatives=partial(HardNegativeObjective, width=8, negatives=Paired(k=2))).eval()
    paired = collated(8, 4)
    batch = {**collated(), "negatives": paired}
    pairs = model.embed(batch, outputs_of(model, batch))
    torch.testing.assert_close(pairs.negatives.images, model.encode_images(paired).pooled)
    expected = model.embed_pairs(paired, model.encode_images(paired).pooled)[1]
    torch.testing.assert_close(model.hard_negatives.project(pairs.negatives)[1], expected)
    assert torch.equal(pairs.negatives.match_keys.columns, paired["match_keys"])
    terms = model.hard_negatives(pairs, LATE)
    terms.alignment_loss.backward()
    assert 0 < terms.logs["negatives_found"] <= 1
    assert model.embed(collated(), outputs_of(model, collated())).negatives is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_checkpoint_gives_the_same_model_again(objective):
    model, other = encoder(objective), encoder(objective)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert not [name for name in checkpoint["state_dict"] if name.startswith("hard_negatives.")]
    assert checkpoint["backbone"] == {}
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    batch = collated()
    for ours, theirs in zip(
        *(each.eval().embed_pairs(batch, each.encode_images(batch).pooled) for each in (model, other)), strict=True
    ):
        assert torch.equal(ours, theirs)
    checkpoint["tokenizer"] = WordTokenizer.from_reports(STUDIES.reports, min_count=3).state()
    with pytest.raises(UserError, match=r"vocabulary of this data .* got one with another"):
        other.on_load_checkpoint(checkpoint)


def test_the_diagnosis_knows_its_embeddings_and_shows_no_pictures(tmp_path):
    diagnosis = Diagnosis()
    fitted(encoder(), tmp_path, range(12), callbacks=[diagnosis], num_sanity_val_steps=0)
    assert diagnosis._pictures == {}
    (log,) = tmp_path.rglob("metrics.csv")
    head = log.read_text().splitlines()[0]
    assert "diagnosis/mean_cosine_of_images" in head
    assert "diagnosis/positive_closer_than_random" in head
    assert "image_sensitivity" not in head
    assert "text_gap" not in head


def test_equal_embeddings_are_warned_of(tmp_path):
    objective = partial(HardNegativeObjective, width=8, centred=False, schedule=Linear(warmup=0))
    model = encoder(hard_negatives=objective, optimizer=partial(torch.optim.SGD, lr=0.0))
    torch.nn.init.zeros_(model.text.norm.weight)  # all reports are one
    torch.nn.init.ones_(model.text.norm.bias)
    diagnosis = Diagnosis()
    fitted(model, tmp_path, range(12), callbacks=[diagnosis], num_sanity_val_steps=0)
    assert "equal_reports" in str(diagnosis.state_dict())


def test_a_model_that_makes_no_words_cannot_be_made():
    class Wordless(AlignedModel, StudyModel):
        pass

    with pytest.raises(TypeError, match="encode_reports"):
        Wordless(**parts(), make_scores=lambda split: torch.nn.Identity())  # type: ignore[abstract]


def test_mining_embeds_the_reports_of_whatever_aligns_them():
    texts = [STUDIES[i]["report"] for i in range(5)]
    model = encoder().train()
    embedded = ModelEmbedder(model, max_length=10, batch_size=2)(texts)
    assert model.training
    torch.testing.assert_close(embedded, model.eval().embed_texts(texts, 10))
    host = ReportGenerator(**parts(), backbone=partial(TransformerDecoder, width=32, heads=2, layers=1)).eval()
    tokens, mask = host.tokenize(texts, 10)
    expected = normalize(masked_mean(host.decoder.text_states(tokens), mask[:, 1:]), dim=-1)
    torch.testing.assert_close(ModelEmbedder(host, max_length=10, batch_size=2)(texts), expected)
    assert not torch.allclose(ModelEmbedder(host, max_length=5)(texts), expected)
