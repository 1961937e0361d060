"""Reports without learning: the most frequent one, and that of the most similar image."""

import torch

from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.evaluation.baselines import (
    ImageEmbeddings,
    embed_studies,
    most_frequent_report,
    nearest_image_reports,
)


def test_most_frequent_report():
    assert most_frequent_report(["a", "b", "c", "b"]) == "b"
    assert most_frequent_report(["a", "b"]) == "a"


def test_nearest_image_by_plain_loops():
    random = torch.Generator().manual_seed(0)
    common = 50 * torch.ones(5)  # what all features share must not decide
    train = torch.randn(20, 5, generator=random) + common
    studies = torch.randn(7, 5, generator=random) + common
    expected = []
    for study in studies - train.mean(0):
        cosines = [float(torch.cosine_similarity(study, other, dim=0)) for other in train - train.mean(0)]
        expected.append(f"report {cosines.index(max(cosines))}")
    got = nearest_image_reports(
        ImageEmbeddings(studies, [""] * 7, [""] * 7),
        ImageEmbeddings(train, [""] * 20, [f"report {i}" for i in range(20)]),
    )
    assert got == expected
    assert len(set(got)) > 2


def test_embedding_does_not_depend_on_the_batch_and_leaves_the_extractor_as_it_was():
    studies = PhantomStudies(train=6, val=1, test=1, size=32).split("train")
    collate = StudyCollator(WordTokenizer.from_reports(studies.reports, min_count=1), 40)
    samples = [studies[i] for i in range(6)]
    visual = VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8})
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    together = embed_studies(visual, [collate(samples)])
    apart = embed_studies(visual, [collate(samples[:4]), collate(samples[4:])])
    torch.testing.assert_close(together.features, apart.features)
    assert together.ids == apart.ids == list(studies.ids)
    assert together.reports == apart.reports
    assert visual.training
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())
