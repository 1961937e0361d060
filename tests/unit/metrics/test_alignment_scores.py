"""Recall of a model that writes nothing, against ranks counted one by one; over two ranks see metrics/test_study_metric.py."""

import pytest
import torch

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.metrics.alignment_scores import AlignmentScores
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.report_scores import EvaluationEmbeddings, ReportScores
from hardneg_plugin.metrics.significance import intervals

STUDIES = 24


@pytest.fixture(scope="module")
def seen():
    """A batch, of which two reports are the same, and its embeddings."""
    split = PhantomStudies(test=STUDIES).split("test")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(STUDIES, 8, generator=generator)
    reports = images + 1.5 * torch.randn(STUDIES, 8, generator=generator)
    batch = {
        "ids": list(split.ids),
        "references": [split.reports[0], split.reports[0], *split.reports[2:]],
        "patients": list(split.patients),
        "labels": list(split.labels),
    }
    return batch, images, reports


def rank(similarity, row, others, hits):
    """1 + how many others are at least as similar as the best hit."""
    best = max(float(similarity[row, hit]) for hit in hits)
    return 1 + sum(float(similarity[row, other]) >= best for other in others if other not in hits)


def test_recall_is_that_of_ranks_counted_one_by_one(seen):
    batch, images, reports = seen
    metric = AlignmentScores()
    metric.update(*seen)
    scores = metric.compute()
    unit = [torch.nn.functional.normalize(rows, dim=-1) for rows in (images, reports)]
    peers = Peers.of(batch["references"], batch["patients"], batch["labels"])
    for prefix, similarity in (("", unit[0] @ unit[1].T), ("r2i_", unit[1] @ unit[0].T)):
        same = [[j for j in range(STUDIES) if batch["references"][i] == batch["references"][j]] for i in range(STUDIES)]
        whole = [rank(similarity, i, range(STUDIES), same[i]) for i in range(STUDIES)]
        among = [rank(similarity, i, [j for j in peers.index[i] if j >= 0], [i]) for i in range(STUDIES)]
        for name, ranks, cutoffs in (("R@", whole, (1, 5, 10)), ("R@", among, (1, 5))):
            name = f"peers_{prefix}{name}" if ranks is among else f"{prefix}{name}"
            for k in cutoffs:
                assert float(scores[f"{name}{k}"]) == pytest.approx(sum(r <= k for r in ranks) / STUDIES)
    assert 0 < float(scores["R@1"]) < 1
    assert metric.records() == []


def test_a_report_generator_with_the_same_embeddings_has_the_same_recall(seen):
    batch, images, reports = seen
    ours, theirs = AlignmentScores(), ReportScores(caption=None)
    ours.update(*seen)
    theirs.update(
        {**batch, "cut_references": batch["references"]},
        batch["references"],
        torch.ones(STUDIES, 2),
        EvaluationEmbeddings(images, reports, reports),
    )
    expected = theirs.compute()
    assert {name: float(value) for name, value in ours.compute().items()} == {
        name: float(value) for name, value in expected.items() if "R@" in name
    }


def test_every_score_has_an_interval_and_every_study_its_ranks(seen):
    metric = AlignmentScores()
    metric.update(*seen)
    card = metric.card()
    assert set(intervals(card.statistics)) == set(card.values)
    assert all(low <= card.values[name] <= high for name, (low, high) in card.intervals().items())
    assert set(card.columns) == {"rank", "r2i_rank", "peers_rank", "peers_r2i_rank"}
    assert card.values["R@5"] == pytest.approx(sum(rank <= 5 for rank in card.columns["rank"]) / STUDIES)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert AlignmentScores().card().values == {}
