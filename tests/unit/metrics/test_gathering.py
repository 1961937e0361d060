import copy
import pickle
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.diversity import Diversity
from hardneg_plugin.metrics.gathering import first_of_each
from hardneg_plugin.metrics.retrieval import ReportRetrieval

RANK_0, RANK_1 = (
    [*range(0, 23, 2)],
    [*range(1, 23, 2), 0],
)  # 23 studies, as Lightning's sampler divides them: 0 is repeated


@pytest.fixture
def embeddings() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(23, 16, generator=generator)
    keys = torch.randint(-1, 6, (23, 4), generator=generator)
    return {"images": images, "reports": images + torch.randn(23, 16, generator=generator), "match_keys": keys}


def all_updates(reports, embeddings, indices, size=5):
    """By metric, the updates that show it the studies at these indices."""
    generated, references, ids = ([column[i] for i in indices] for column in reports)
    tensors = {name: tensor[indices] for name, tensor in embeddings.items()}
    updates = {"captions": [], "retrieval": [], "diversity": []}
    for start in range(0, len(indices), size):
        part = slice(start, start + size)
        updates["captions"].append({"generated": generated[part], "references": references[part], "ids": ids[part]})
        updates["retrieval"].append({**{k: v[part] for k, v in tensors.items()}, "ids": ids[part]})
        updates["diversity"].append({"generated": generated[part], "ids": ids[part]})
    return updates


METRICS = {"captions": CaptionScores, "retrieval": ReportRetrieval, "diversity": Diversity}


def in_one_process(updates):
    metrics = {name: METRICS[name]() for name in updates}
    for name, batches in updates.items():
        for batch in batches:
            metrics[name].update(**batch)
    return metrics


def equal(ours, theirs) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_ranks_with_a_repeated_study_score_as_one_process_bit_for_bit(
    fake_meteor, reports, embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from two_ranks import Failing, compute_over_two_ranks

    shares = [all_updates(reports, embeddings, indices) for indices in (RANK_0, RANK_1)]
    tasks = {name: (metric(), [share[name] for share in shares]) for name, metric in METRICS.items()}
    everything = all_updates(reports, embeddings, range(23))
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
            assert details == metric._details
            assert kept == 12, "after computing, a rank must be back at its own studies"
            assert equal(rank[f"{name}, rank 1 empty"][0], expected)
            assert rank[f"{name}, both empty"][0] == {}
    modules = ranks[0]["imported before computing"]
    assert "hardneg_plugin.metrics.caption" in modules
    assert not any(module.startswith("pycocoevalcap") for module in modules), "to be imported when scores are computed"
    assert isinstance(ranks[0]["failing"], ArithmeticError)
    assert "no score of ['a', 'b']" in str(ranks[1]["failing"])


def test_order_and_repetition_of_studies_change_no_bit(fake_meteor, reports, embeddings):
    metrics = in_one_process(all_updates(reports, embeddings, range(23)))
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = in_one_process(all_updates(reports, embeddings, order + order[:9], size=4))
    for name, metric in metrics.items():
        assert equal(shuffled[name].compute(), metric.compute())
        assert shuffled[name]._details == metric._details


def test_copies_go_on_by_themselves_and_reset_forgets(fake_meteor, reports, embeddings):
    updates = all_updates(reports, embeddings, range(23))
    for name, metric in in_one_process({name: batches[:2] for name, batches in updates.items()}).items():
        before = metric.compute()
        copies = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
        for duplicate in copies:
            for batch in updates[name][2:]:
                duplicate.update(**batch)
            assert not equal(duplicate.compute(), before)
        assert equal(metric.compute(), before)
        metric.reset()
        with pytest.warns(UserWarning, match="before the ``update`` method"):
            assert metric.compute() == {}
        for batch in updates[name]:
            metric.update(**batch)
        assert equal(metric.compute(), copies[0].compute())
        assert metric.state_dict() == {}


def test_forward_gives_the_batch_and_keeps_the_rest(fake_meteor, reports, embeddings):
    updates = all_updates(reports, embeddings, range(23))
    for name, whole in in_one_process(updates).items():
        metric = METRICS[name]()
        for batch in updates[name]:
            alone = METRICS[name]()
            alone.update(**batch)
            assert equal(metric(**batch), alone.compute())
        assert equal(metric.compute(), whole.compute())


def test_a_collection_holds_several_of_one_kind_and_moves_between_dtypes(reports):
    generated, references, ids = reports
    metrics = (
        MetricCollection({"full": CaptionScores(meteor=False), "own": CaptionScores(meteor=False)}).double().to("cpu")
    )
    metrics["full"].update(generated, references, ids)
    metrics["own"].update(references, references, ids)
    scores = metrics.compute()
    assert scores["own_BLEU-4"] > 0.999 > scores["full_BLEU-4"]


def test_what_was_seen_is_a_copy():
    metric = ReportRetrieval()
    images, ids = torch.eye(4), ["a", "b", "c", "d"]
    metric.update(images, images, ids, torch.full((4, 4), -1))
    images.zero_()
    ids.clear()
    assert metric.compute()["R@1"] == 1


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"the 2 `ids` in each column, but got \[2, 1\]"):
        CaptionScores(meteor=False).update(["a", "b"], ["a"], ["1", "2"])


@pytest.mark.parametrize(
    ("ids", "expected"), [([], []), (["b", "a"], [1, 0]), (["x", "x", "x"], [0]), (["2", "10", "2"], [1, 0])]
)
def test_first_of_each(ids, expected):
    assert first_of_each(ids) == expected
