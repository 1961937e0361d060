"""The scores of a split: what they are of, what a study scores for itself, and that a file gives them again."""

import math
import random

import numpy as np
import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.files import write_jsonl
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import make_record, read_predictions
from hardneg_plugin.metrics.report_scores import EvaluationEmbeddings, ReportScores
from hardneg_plugin.metrics.retrieval import ranks_among, retrieval_ranks
from hardneg_plugin.metrics.score_names import WITH_INTERVAL

STUDIES = 40
CAPTION = CaptionScores(meteor=False)


@pytest.fixture(scope="module")
def seen():
    """What a model's validation shows the scores."""
    split = PhantomStudies(test=STUDIES).split("test")
    draw = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(STUDIES, 8, generator=generator)
    near = lambda: images + torch.randn(STUDIES, 8, generator=generator)  # noqa: E731
    batch = {
        "ids": list(split.ids),
        "references": list(split.reports),
        "cut_references": [" ".join(text.split()[:10]) for text in split.reports],
        "patients": list(split.patients),
        "labels": list(split.labels),
    }
    generated = [split.reports[draw.choice([i, (7 * i + 3) % STUDIES])] for i in range(STUDIES)]
    losses = torch.stack([3 + torch.rand(STUDIES, generator=generator), torch.arange(STUDIES) + 2.0], dim=1)
    return batch, generated, losses, EvaluationEmbeddings(images, near(), near())


@pytest.fixture(scope="module")
def scores(seen):
    metric = ReportScores(caption=CAPTION, read_findings=PhantomStudies.read_findings, cut=True)
    metric.update(*seen)
    return metric


def test_a_predictions_file_gives_the_same_scores_bit_for_bit(scores, tmp_path):
    computed = {name: float(value) for name, value in scores.compute().items()}
    write_jsonl(tmp_path / "test.jsonl", scores.records())
    card = score_records(read_predictions(tmp_path / "test.jsonl"), caption=CAPTION)
    assert card.values == computed
    assert [card.of_study(row) for row in range(len(scores.records()))] == [r["scores"] for r in scores.records()]
    assert card.intervals() == scores.card().intervals()


def test_caption_scores_are_pycocoevalcaps(scores):
    records, values = scores.records(), score_records(scores.records(), caption=CAPTION).values
    for prefix, key in (("", "reference"), ("cut/", "cut_reference")):
        pair = ({i: [r[key]] for i, r in enumerate(records)}, {i: [r["generated"]] for i, r in enumerate(records)})
        bleu, _ = Bleu(4).compute_score(*pair, verbose=0)
        assert [values[f"{prefix}BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleu, abs=1e-9)
        assert values[f"{prefix}ROUGE-L"] == pytest.approx(Rouge().compute_score(*pair)[0], abs=1e-9)
        assert values[f"{prefix}CIDEr"] == pytest.approx(Cider().compute_score(*pair)[0], abs=1e-9)


def test_what_the_model_measured(seen, scores):
    batch, _, losses, embeddings = seen
    values = scores.compute()
    assert float(values["report_loss"]) == pytest.approx(float(losses[:, 0].sum() / losses[:, 1].sum()))
    pools = torch.from_numpy(Peers.of_records(scores.records()).index)
    texts = torch.tensor([batch["references"].index(text) for text in batch["references"]])
    images, reports, written = embeddings
    for name, ranks in (
        ("R@", retrieval_ranks(images, reports, texts)),
        ("r2i_R@", retrieval_ranks(reports, images, texts)),
        ("peers_R@", ranks_among(images, reports, pools)),
        ("peers_r2i_R@", ranks_among(reports, images, pools)),
    ):
        for k in (1, 5):
            assert float(values[f"{name}{k}"]) == pytest.approx((ranks <= k).float().mean().item())
    picks = ranks_among(written, images, pools) == 1  # no ties among random embeddings
    assert float(values["image_specificity"]) == pytest.approx(picks.float().mean().item())
    assert 0 < float(values["image_specificity"]) < 1


def test_who_has_no_peers_is_not_counted_among_peers(seen):
    batch, generated, losses, embeddings = seen
    patients = ["all" if row == 0 else ["all", "other"][row % 2] for row in range(len(generated))]
    labels = [None if row else "any" for row in range(len(generated))]
    labels[1::2] = ["any"] * len(labels[1::2])  # the first study matches each other one by its patient or its labels
    scores = ReportScores(caption=None)
    scores.update({**batch, "patients": patients, "labels": labels}, generated, losses, embeddings)
    values, records = scores.compute(), scores.records()
    peers = Peers.of_records(records)
    assert [record["id"] for record, index in zip(records, peers.index, strict=True) if (index < 0).all()] == [
        batch["ids"][0]
    ]
    (alone,) = (record for record in records if record["id"] == batch["ids"][0])
    assert set(alone["measured"]) == {"loss", "tokens", "rank", "r2i_rank"}
    ranks = [record["measured"]["peers_rank"] for record in records if record is not alone]
    assert len(ranks) == len(generated) - 1
    assert float(values["peers_R@1"]) == pytest.approx(sum(rank <= 1 for rank in ranks) / len(ranks))
    assert 0 < float(values["image_specificity"]) < 1


def test_every_interval_holds_its_score(scores):
    values, intervals = scores.compute(), scores.card().intervals()
    without = {name for name in values if name not in intervals}
    assert without == {name for name in values if name.startswith("cut/")} | {
        "unique_share",
        "distinct-1",
        "distinct-2",
    }
    for name, (low, high) in intervals.items():
        assert low <= float(values[name]) <= high
        assert low < high or float(values[name]) in (0, 1)


def test_a_model_without_embeddings_and_a_file_of_another_system(seen):
    batch, generated, losses, _ = seen
    host = ReportScores(caption=None)
    host.update(batch, generated, losses)
    assert not [name for name in host.compute() if "R@" in name or "findings" in name]
    foreign = [make_record(*texts) for texts in zip(batch["ids"], batch["references"], generated, strict=True)]
    card = score_records(foreign, caption=CAPTION)
    assert {"BLEU-4", "specificity", "unique_share", "length"} <= set(card.values)
    assert "report_loss" not in card.values


def test_scores_of_one_study_are_finite():
    card = score_records([make_record("a", "the heart is normal .", "")], caption=CAPTION)
    assert all(math.isfinite(value) for value in card.values.values())
    assert all(math.isfinite(end) for pair in card.intervals().values() for end in pair)


def test_every_score_that_has_an_interval_is_known_beforehand(seen):
    batch, generated, losses, embeddings = seen
    scores = ReportScores(caption=CAPTION, read_findings=PhantomStudies().read_findings)
    scores.update(batch, generated, losses, embeddings)
    of_a_decoder = {"likelihood_R@1", "likelihood_r2i_R@1"}
    assert {*scores.card().intervals(), "METEOR", *of_a_decoder} == WITH_INTERVAL


OF_SECTIONS = [
    make_record(
        "a",
        "<findings> clear lungs . <impression> normal chest .",
        "<findings> clear lungs . <impression> normal .",
    ),
    make_record("b", "<impression> left effusion .", "<findings> left effusion . <impression> right effusion ."),
    make_record("c", "<findings> the heart is large .", "the heart is large ."),
]


def test_each_section_is_scored_alone_over_the_studies_that_have_it():
    records = OF_SECTIONS
    values = score_records(records, caption=CAPTION).values
    plain = CAPTION(
        ["clear lungs . normal .", "left effusion . right effusion .", "the heart is large ."],
        ["clear lungs . normal chest .", "left effusion .", "the heart is large ."],
    ).values
    findings = CAPTION(["clear lungs .", "the heart is large ."], ["clear lungs .", "the heart is large ."]).values
    impression = CAPTION(["normal .", "right effusion ."], ["normal chest .", "left effusion ."]).values
    assert {name: values[name] for name in plain} == plain, "marks are no words"
    assert {name: values[f"findings/{name}"] for name in findings} == findings
    assert {name: values[f"impression/{name}"] for name in impression} == impression
    assert (values["findings/studies"], values["impression/studies"]) == (2, 2)
    without = [make_record("a", "clear lungs .", "clear .")]
    assert not any("/" in name for name in score_records(without, caption=CAPTION).values)


def test_scores_of_sections_have_the_intervals_of_the_studies_that_have_them():
    """Under weights of all three studies, the impression's scores are those of its two, each repeated as often."""
    card = score_records(OF_SECTIONS, caption=CAPTION)
    assert card.intervals().keys() >= {
        f"{section}/{name}" for section in ("findings", "impression") for name in ("BLEU-4", "CIDEr")
    }
    repeated = CAPTION(["normal ."] * 3 + ["right effusion ."], ["normal chest ."] * 3 + ["left effusion ."])
    weights = np.array([[3.0, 1.0, 5.0], [0.0, 0.0, 2.0]])  # in the second draw no study has an impression
    drawn = {name: values for statistic in card.statistics for name, values in statistic.under(weights).items()}
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert drawn[f"impression/{name}"] == pytest.approx([repeated.values[name], 0])
