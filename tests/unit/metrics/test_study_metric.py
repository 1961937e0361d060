"""What all metrics over studies share, by a metric that could not be simpler and by the scores of a whole split."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection
from two_ranks import Failing, Lengths, compute_over_two_ranks

from hardneg_plugin.metrics.alignment_scores import AlignmentScores
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.report_scores import EvaluationEmbeddings, ReportScores
from hardneg_plugin.metrics.study_metric import first_of_each

RANK_0, RANK_1 = (
    [*range(0, 23, 2)],
    [*range(1, 23, 2), 0],
)  # 23 studies, as Lightning's sampler divides them: 0 is repeated


def read_findings(text):
    """Sentences with an effusion or an opacity, with their words as attributes."""
    return frozenset(("finding", part) for part in text.split(" .") if "effusion" in part or "opacity" in part)


@pytest.fixture
def studies(reports):
    """The columns of 23 studies; their patients, labels and embeddings made up."""
    generated, references, ids = reports
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(23, 16, generator=generator)
    return {
        "ids": ids,
        "generated": generated,
        "references": references,
        "cut_references": [" ".join(text.split()[:12]) for text in references],
        "patients": [None if i % 5 == 0 else f"p{i // 2}" for i in range(23)],
        "labels": [str(len(text) % 7) if i % 4 else None for i, text in enumerate(references)],
        "losses": torch.rand(23, 2, generator=generator) + 1,
        "images": images,
        "reports": images + torch.randn(23, 16, generator=generator),
        "written": images + torch.randn(23, 16, generator=generator),
    }


def updates(studies, indices, size=5):
    """By metric, the updates that show it the studies at these indices."""
    chosen = {name: c[indices] if torch.is_tensor(c) else [c[i] for i in indices] for name, c in studies.items()}
    given = {"lengths": [], "scores": [], "alignment": []}
    for start in range(0, len(indices), size):
        part = {name: column[start : start + size] for name, column in chosen.items()}
        given["lengths"].append({"ids": part["ids"], "texts": part["generated"]})
        given["alignment"].append({"batch": part, "images": part["images"], "reports": part["reports"]})
        part = dict(part)
        embeddings = EvaluationEmbeddings(part.pop("images"), part.pop("reports"), part.pop("written"))
        generated, losses = part.pop("generated"), part.pop("losses")
        given["scores"].append({"batch": part, "generated": generated, "losses": losses, "embeddings": embeddings})
    return given


METRICS = {
    "lengths": Lengths,
    "scores": lambda: ReportScores(caption=CaptionScores(), read_findings=read_findings, cut=True),
    "alignment": AlignmentScores,
}


def in_one_process(given):
    metrics = {name: METRICS[name]() for name in given}
    for name, batches in given.items():
        for batch in batches:
            metrics[name].update(**batch)
    return metrics


def equal(ours, theirs) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def told(metric):
    """What is told about single studies."""
    return metric.records() if hasattr(metric, "records") else metric._details


@pytest.mark.slow
def test_two_ranks_with_a_repeated_study_score_as_one_process_bit_for_bit(fake_meteor, studies, tmp_path: Path):
    shares = [updates(studies, indices) for indices in (RANK_0, RANK_1)]
    tasks = {name: (metric(), [share[name] for share in shares]) for name, metric in METRICS.items()}
    everything = updates(studies, range(23))
    for name, metric in METRICS.items():
        tasks[f"{name}, rank 1 empty"] = metric(), [everything[name], []]
        tasks[f"{name}, both empty"] = metric(), [[], []]
    tasks["failing"] = Failing(), [[{"ids": ["a"]}], [{"ids": ["b"]}]]
    ranks = compute_over_two_ranks(tasks, tmp_path)
    assert len(fake_meteor()) == 1, "only rank 0 may start a Java process"

    for name, metric in in_one_process(everything).items():
        expected = metric.compute()
        assert expected
        for rank in ranks:
            scores, details, kept = rank[name]
            assert equal(scores, expected)
            assert details == told(metric)
            assert kept == 12, "after computing, a rank must be back at its own studies"
            assert equal(rank[f"{name}, rank 1 empty"][0], expected)
            assert rank[f"{name}, both empty"][0] == {}
    modules = ranks[0]["imported before computing"]
    assert "hardneg_plugin.metrics.caption" in modules
    assert not any(module.startswith("pycocoevalcap") for module in modules), "to be imported when scores are computed"
    assert isinstance(ranks[0]["failing"], ArithmeticError)
    assert "no score of ['a', 'b']" in str(ranks[1]["failing"])


def test_order_and_repetition_of_studies_change_no_bit(fake_meteor, studies):
    metrics = in_one_process(updates(studies, range(23)))
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = in_one_process(updates(studies, order + order[:9], size=4))
    for name, metric in metrics.items():
        assert equal(shuffled[name].compute(), metric.compute())
        assert told(shuffled[name]) == told(metric)


def test_copies_go_on_by_themselves_and_reset_forgets(fake_meteor, studies):
    given = updates(studies, range(23))
    for name, metric in in_one_process({name: batches[:2] for name, batches in given.items()}).items():
        before = metric.compute()
        copies = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
        for duplicate in copies:
            for batch in given[name][2:]:
                duplicate.update(**batch)
            assert not equal(duplicate.compute(), before)
        assert equal(metric.compute(), before)
        metric.reset()
        with pytest.warns(UserWarning, match="before the ``update`` method"):
            assert metric.compute() == {}
        for batch in given[name]:
            metric.update(**batch)
        assert equal(metric.compute(), copies[0].compute())
        assert metric.state_dict() == {}


def test_forward_gives_the_batch_and_keeps_the_rest(fake_meteor, studies):
    given = updates(studies, range(23))
    for name, whole in in_one_process(given).items():
        metric = METRICS[name]()
        for batch in given[name]:
            alone = METRICS[name]()
            alone.update(**batch)
            assert equal(metric(**batch), alone.compute())
        assert equal(metric.compute(), whole.compute())


def test_a_collection_holds_several_of_one_kind_and_moves_between_dtypes():
    metrics = MetricCollection({"short": Lengths(), "long": Lengths()}).double().to("cpu")
    metrics["short"].update(["1"], ["a"])
    metrics["long"].update(["1"], ["a b c"])
    scores = metrics.compute()
    assert (scores["short_words"], scores["long_words"]) == (1, 3)


def test_what_was_seen_is_a_copy(fake_meteor, studies):
    (given,) = updates(studies, range(23), size=23)["scores"]
    metric = ReportScores(caption=None)
    metric.update(**given)
    expected = in_one_process({"scores": [given]})["scores"].compute()
    given["embeddings"].images.zero_()
    given["losses"].zero_()
    given["batch"]["ids"].clear()
    scores = metric.compute()
    assert (scores["R@1"], scores["report_loss"]) == (expected["R@1"], expected["report_loss"])


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"the 2 `ids` in each column, but got \[1\]"):
        Lengths().update(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("ids", "expected"), [([], []), (["b", "a"], [1, 0]), (["x", "x", "x"], [0]), (["2", "10", "2"], [1, 0])]
)
def test_first_of_each(ids, expected):
    assert first_of_each(ids) == expected
