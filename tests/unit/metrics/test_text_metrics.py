"""The metrics that stand alone: the scores of the commands, over batches, in copies and over two ranks."""

import copy
import doctest
import pickle
import re
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection
from two_ranks import compute_over_two_ranks

import hardneg_plugin.metrics
from hardneg_plugin.knowledge.findings import read_findings
from hardneg_plugin.metrics import (
    CaptionMetric,
    ClinicalTextMetric,
    DiversityMetric,
    FindingsMetric,
    InformativenessMetric,
    LabelFiles,
    RetrievalMetric,
    SpecificityMetric,
)
from hardneg_plugin.metrics.alignment_scores import AlignmentScores
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.chexpert import CONDITIONS
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import make_record

METRICS = {
    "caption": CaptionMetric,
    "findings": FindingsMetric,
    "informativeness": InformativenessMetric,
    "specificity": lambda: SpecificityMetric(read="english"),
    "diversity": DiversityMetric,
}


def collection():
    return MetricCollection({name: metric() for name, metric in METRICS.items()})


@pytest.fixture
def pairs(reports):
    """Texts with what a reader does not see, and a mark of a section."""
    generated, references, _ = reports
    generated[0], references[1] = f"<findings> {generated[0]}", references[1].replace(" ", "\u00a0", 1)
    return generated, references


def batches(pairs, size=5):
    generated, references = pairs
    for start in range(0, len(generated), size):
        yield {"preds": generated[start : start + size], "target": references[start : start + size]}


def records(pairs):
    texts = enumerate(zip(*pairs, strict=True))
    return [make_record(f"{i:02d}", reference, text, read_findings=read_findings) for i, (text, reference) in texts]


def test_a_collection_over_batches_gives_the_scores_of_the_commands(pairs):
    metrics = collection()
    for batch in batches(pairs):
        metrics.update(**batch)
    card = score_records(records(pairs), caption=CaptionScores(meteor=False))
    scores = {name: float(value) for name, value in metrics.compute().items()}
    assert scores == card.values
    intervals = {name: ends for metric in metrics.values() for name, ends in metric.card().intervals().items()}
    assert intervals == {name: pytest.approx(ends) for name, ends in card.intervals().items()}


def test_texts_as_given_are_taken_as_they_are():
    metric = CaptionMetric(as_given=True)
    pair = ["the  lungs are\u00a0clear ."], ["the lungs are clear ."]
    metric.update(*pair)
    expected = CaptionScores(meteor=False, as_given=True)(*pair).values
    assert {name: float(value) for name, value in metric.compute().items()} == expected
    assert expected["BLEU-1"] < 1


def test_copies_reset_and_forward(pairs):
    generated, references = pairs
    for name, metric in ((name, made()) for name, made in METRICS.items()):
        metric.update(generated[:9], references[:9])
        before = {key: float(value) for key, value in metric.compute().items()}
        twins = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
        on_batch = metric(generated[9:], references[9:])
        alone, whole = METRICS[name](), METRICS[name]()
        alone.update(generated[9:], references[9:])
        whole.update(generated, references)
        assert on_batch == alone.compute()
        assert metric.compute() == whole.compute()
        for twin in twins:
            assert {key: float(value) for key, value in twin.compute().items()} == before
        metric.reset()
        metric.update(generated[:9], references[:9])
        assert {key: float(value) for key, value in metric.compute().items()} == before


def test_without_ids_every_pair_counts_and_with_ids_each_study_once():
    metric = FindingsMetric()
    for _ in range(2):
        metric.update(["effusion"], ["effusion"])
    metric.update(["effusion"], ["clear lungs"])
    assert float(metric.compute()["findings_precision"]) == pytest.approx(2 / 3)
    metric.reset()
    metric.update(["effusion", "effusion", "effusion"], ["effusion", "effusion", "clear lungs"], ids=["a", "a", "b"])
    assert float(metric.compute()["findings_precision"]) == 0.5


def test_a_reader_of_ones_own(pairs):
    def read(text):
        return frozenset({("dot", ())} if "." in text else set())

    metric = FindingsMetric(read)
    metric.update(["a .", "b"], ["a .", "b ."])
    assert float(metric.compute()["findings_recall"]) == 0.5
    with pytest.raises(ValueError, match="Expected one of english or a function as `read`, but got 'german'"):
        InformativenessMetric("german")


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(ValueError, match="a list of texts as `target`, but got the one text 'clear lungs'"):
        DiversityMetric().update(["clear lungs"], "clear lungs")
    with pytest.raises(ValueError, match=r"as many entries as the 1 `ids`"):
        DiversityMetric().update(["clear lungs"], [])


def test_a_clinical_metric_sees_ids_and_texts(tmp_path):
    rows = {"a": 1, "b": 0}
    for name, flipped in (("generated", "b"), ("references", "")):
        lines = [
            f"{study},{','.join([str(1 - label if study == flipped else label)] * 14)}" for study, label in rows.items()
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"id,{','.join(CONDITIONS)}", *lines]))
    metric = ClinicalTextMetric(LabelFiles(*(str(tmp_path / f"{name}.csv") for name in ("generated", "references"))))
    metric.update(["x", "y"], ["x", "y"], ids=["a", "b"])
    assert float(metric.compute()["labels_F1_micro14_uncertain-positive"]) == pytest.approx(2 / 3)


def test_recall_with_texts_is_that_of_training_and_without_them_counts_no_equal_text(reports):
    _, texts, ids = reports
    texts[1] = texts[0]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(23, 8, generator=generator)
    written = images + torch.randn(23, 8, generator=generator)
    theirs = AlignmentScores()
    theirs.update({"ids": ids, "references": texts, "patients": [None] * 23, "labels": [None] * 23}, images, written)
    ours = RetrievalMetric()
    for rows in torch.arange(23).split(6):
        ours.update(images[rows], written[rows], [texts[i] for i in rows])
    assert ours.compute() == theirs.compute()

    written[[0, 1]] = written[[1, 0]]
    plain = RetrievalMetric()
    plain.update(images, written)
    similarity = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(written).T
    first = (similarity.argmax(dim=1) == torch.arange(23)).double().mean()
    assert plain.compute()["R@1"] == first
    assert sorted(plain.compute()) == sorted(f"{way}R@{k}" for way in ("", "r2i_") for k in (1, 5, 10))
    with pytest.raises(ValueError, match=r"of one shape \(B, D\), but got \(23, 8\) and \(22, 8\)"):
        plain.update(images, written[1:])


def test_every_exported_name_is_there():
    assert all(getattr(hardneg_plugin.metrics, name).__name__ == name for name in hardneg_plugin.metrics.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Caption'"):
        _ = hardneg_plugin.metrics.Caption


DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "METRICS.md"


def test_the_document_runs_and_names_every_metric():
    text = DOCUMENT.read_text()
    blocks = re.findall(r"```python\n(.*?\n)```", text, re.DOTALL)
    assert len(blocks) >= 3
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, DOCUMENT.name, str(DOCUMENT), 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0
    metrics = {name for name in hardneg_plugin.metrics.__all__ if name.endswith("Metric")}
    assert metrics <= set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))


@pytest.mark.slow
def test_two_ranks_score_as_one_process(pairs, tmp_path: Path):
    """With ids bit for bit; without, in another order of the sums."""
    generated, references = pairs
    ids = [f"{i:02d}" for i in range(23)]
    shares = [[*range(0, 23, 2)], [*range(1, 23, 2), 0]]
    halves = [[*range(12)], [*range(12, 23)]]
    tasks, expected = {}, {}
    for name, metric in METRICS.items():
        with_ids = [
            [{"preds": [generated[i]], "target": [references[i]], "ids": [ids[i]]} for i in rows] for rows in shares
        ]
        without = [
            [{"preds": [generated[i] for i in rows], "target": [references[i] for i in rows]}] for rows in halves
        ]
        tasks |= {f"{name} with ids": (metric(), with_ids), f"{name} without": (metric(), without)}
        whole = metric()
        whole.update(generated, references)
        expected[name] = whole.compute()
    for rank in compute_over_two_ranks(tasks, tmp_path):
        for name, scores in expected.items():
            assert rank[f"{name} with ids"][0] == scores
            assert rank[f"{name} without"][0] == scores
