"""`negatives=paired` in the generator and in the configs: the batch carries paired studies, the host encodes them."""

import json
from functools import partial
from typing import get_args

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator, ReportFeature
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import HardNegativeObjective, Paired
from hardneg_plugin.objectives.schedule import TrainingProgress

STUDIES = PhantomStudies(train=12, val=1, test=1, size=32).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
LATE = TrainingProgress(fraction=0.9, epoch=9, step=90)


def make(of=HardNegativeReportGenerator, feature="text_only", k=2):
    torch.manual_seed(0)
    plugged = {
        "hard_negatives": partial(HardNegativeObjective, width=8, negatives=Paired(k=k)),
        "report_feature": feature,
    }
    return of(
        visual=VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        backbone=partial(TransformerDecoder, width=32, heads=2, layers=1),
        tokenizer=TOKENIZER,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        decoding=Decoding(max_length=8),
        **(plugged if of is HardNegativeReportGenerator else {}),
    )


def collate(indices, paired=None):
    samples = [STUDIES[i] for i in indices]
    if paired is not None:
        samples = [{**s, "negatives": [STUDIES[i] for i in row]} for s, row in zip(samples, paired, strict=True)]
    return StudyCollator(TOKENIZER, 40)(samples)


@pytest.fixture
def batch():
    """Three studies with two paired ones each; the last has one, and is filled up with itself."""
    return collate([0, 1, 2], [[3, 4], [5, 6], [7, 2]])


@pytest.mark.parametrize("feature", get_args(ReportFeature))
def test_paired_studies_are_embedded_as_they_would_be_in_a_batch_of_their_own(batch, feature):
    model = make(feature=feature).eval()
    paired = model.embed(batch, model._teacher_forced(batch)).negatives
    alone = collate([3, 4, 5, 6, 7, 2])
    expected = model.embed(alone, model._teacher_forced(alone))
    torch.testing.assert_close(paired.images, expected.images)
    torch.testing.assert_close(paired.reports, expected.reports)
    assert torch.equal(paired.match_keys.columns, expected.match_keys.columns)
    assert expected.negatives is None


@pytest.mark.parametrize("feature", get_args(ReportFeature))
def test_the_gradient_reaches_the_host_through_the_paired_studies(batch, feature):
    model = make(feature=feature)
    paired = model.embed(batch, model._teacher_forced(batch)).negatives
    for features, part in ((paired.images, model.visual), (paired.reports, model.decoder)):
        model.zero_grad()
        (features**2).sum().backward(retain_graph=True)
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0


def test_the_objective_is_measured_against_the_paired_studies(batch):
    model = make().eval()
    pairs = model.embed(batch, model._teacher_forced(batch))
    terms = model.hard_negatives(pairs, LATE)
    images, _ = model.hard_negatives.project(pairs)
    _, paired = model.hard_negatives.project(pairs.negatives)
    keys, mined_keys = pairs.match_keys.columns, pairs.negatives.match_keys.columns
    similarities = []
    for i in range(3):
        for row in (2 * i, 2 * i + 1):
            known = (keys[i] >= 0) & (mined_keys[row] >= 0)
            if not ((keys[i] == mined_keys[row]) & known).any():
                similarities.append((images[i] @ paired[row]).item())
    assert 0 < len(similarities) < 6  # the study that stands for its own negative does not count
    assert terms.logs["negative_similarity"].item() == pytest.approx(sum(similarities) / len(similarities), abs=1e-5)


def test_the_bare_host_and_evaluation_take_no_notice(batch):
    plain = collate([0, 1, 2])
    for model in (make(of=ReportGenerator).eval(), make().eval()):
        with_paired, without = model._teacher_forced(batch), model._teacher_forced(plain)
        assert all(torch.equal(with_paired[name], without[name]) for name in ("loss", "losses", "states"))
        for value, expected in zip(with_paired["visual"], without["visual"], strict=True):
            assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected


def compose(*overrides):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", ["negatives=paired", *overrides])


@pytest.mark.parametrize(
    "data", ["phantom", "annotations data.root=x", "iu_xray data.root=x", "mimic_cxr data.root=x"], ids=str.split
)
def test_every_data_set_takes_the_paired_studies(data):
    config = compose(*f"data={data}".split(), "data.paired.table=t.json", "negatives.k=2", "data.paired.pool=5")
    assert instantiate(config.data.datamodule.paired) == PairedNegatives("t.json", k=2, pool=5)
    assert instantiate(config.negatives) == Paired(k=2)
    assert OmegaConf.to_container(config.data, resolve=True)["datamodule"]["paired"]["k"] == 2


def test_from_the_command_line_to_the_batch(tmp_path):
    names = STUDIES.ids
    (tmp_path / "t.json").write_text(json.dumps({name: [names[i - 1], names[i - 2]] for i, name in enumerate(names)}))
    source = [f"data.datamodule.source.{name}={value}" for name, value in (("train", 12), ("val", 4), ("size", 32))]
    config = compose(*source, f"data.paired.table={tmp_path}/t.json", "negatives.k=2", "data.batch_size=4")
    data: StudyDataModule = instantiate(config.data.datamodule)
    batch = next(iter(data.train_dataloader()))
    assert len(batch["ids"]) == 4
    assert batch["negatives"]["ids"] == [names[names.index(own) - step] for own in batch["ids"] for step in (1, 2)]
    assert "negatives" not in next(iter(data.val_dataloader()))


def test_a_number_out_of_range_is_named_by_its_config_key():
    with pytest.raises(InstantiationException) as caught:
        instantiate(compose("data.paired.table=t.json", "data.paired.k=0").data.datamodule)
    assert isinstance(caught.value.__cause__, UserError)
    assert "data.paired.k: expected" in str(caught.value.__cause__)
