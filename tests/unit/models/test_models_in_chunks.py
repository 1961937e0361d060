"""Our models in chunks: the gradient of the unsplit step, with paired studies and with statements; the config key."""

from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.text import TextEncoder
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.grounding import Cells, Grounding
from hardneg_plugin.models.aligned import split_studies
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.image_report_encoder import ImageReportEncoder
from hardneg_plugin.objectives import GroundedKnowledgeObjective, HardNegativeObjective, Paired
from hardneg_plugin.objectives.schedule import TrainingProgress

STUDIES = PhantomStudies(train=12, val=1, test=1, size=32).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
KNOWLEDGE = PhantomKnowledge()
GENERATOR = {
    "backbone": partial(TransformerDecoder, width=32, heads=2, layers=1, dropout=0.0),
    "decoding": Decoding(max_length=8),
}
MODELS = {
    "paired": (
        HardNegativeReportGenerator,
        {
            **GENERATOR,
            "hard_negatives": partial(HardNegativeObjective, width=8, negatives=Paired(k=2)),
            "report_feature": "text_only",
        },
    ),
    "gk_mvlp": (
        HardNegativeReportGenerator,
        {
            **GENERATOR,
            "grounding": partial(Grounding, knowledge=KNOWLEDGE, width=8, heads=2, regions=Cells(1, 1)),
            "hard_negatives": partial(GroundedKnowledgeObjective, width=8, knowledge=KNOWLEDGE, entity_width=8),
        },
    ),
    "pretrain": (
        ImageReportEncoder,
        {
            "text": partial(TextEncoder, width=8, heads=2, dropout=0.0),
            "hard_negatives": partial(HardNegativeObjective, width=8),
        },
    ),
}


def batch_of(paired):
    samples = [STUDIES[i] for i in range(5)]
    if paired:
        samples = [{**sample, "negatives": [STUDIES[5 + i], STUDIES[6 + i]]} for i, sample in enumerate(samples)]
    return StudyCollator(TOKENIZER, 40, KNOWLEDGE)(samples)


def gradients(name, chunks):
    torch.manual_seed(0)
    of, options = MODELS[name]
    visual = VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8})
    model = of(
        visual=visual, tokenizer=TOKENIZER, optimizer=partial(torch.optim.SGD, lr=0.1), chunks=chunks, **options
    ).eval()
    model._progress = lambda: TrainingProgress(step=3, epoch=0, fraction=0.9)
    torch.manual_seed(1)
    loss = model.training_step(batch_of(name == "paired"), 0)["loss"]
    loss.backward()
    return loss.detach(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_the_unsplit_step(name, monkeypatch):
    # in eval mode, for batch norms are of a part; reports of different lengths, over whose tokens the loss is a mean
    monkeypatch.setattr("pytorch_lightning.LightningModule.log", lambda *args, **options: None)
    expected_loss, expected = gradients(name, 1)
    for chunks in (2, 5):
        loss, found = gradients(name, chunks)
        torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=0)
        assert found.keys() == expected.keys()
        for key, gradient in found.items():
            torch.testing.assert_close(gradient, expected[key], atol=1e-5, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


def test_paired_studies_stay_with_theirs():
    batch = batch_of(paired=True)
    parts = split_studies(batch, 2)
    assert [part["ids"] for part in parts] == [batch["ids"][:3], batch["ids"][3:]]
    assert [part["negatives"]["ids"] for part in parts] == [
        batch["negatives"]["ids"][:6],
        batch["negatives"]["ids"][6:],
    ]


@pytest.mark.parametrize("model", ["hard_negatives", "pretrain"])
def test_the_config_has_a_key(model):
    with initialize_config_dir(str(conf_dir()), version_base=None):
        assert compose("train", [f"model={model}", "model.chunks=4"]).model.chunks == 4
